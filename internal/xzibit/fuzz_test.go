package xzibit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/xzibit"
)

// requireSeeds fails when the committed corpus is missing, without which a fuzz
// target that is not fuzzing tests nothing.
func requireSeeds(f *testing.F) {
	f.Helper()
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		if info, err := os.Stat(s); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s: %v", s, err)
		}
	}
}

// FuzzCheck: what Check accepts has bounded length and re-encodes identically, and
// ReadFrom takes exactly that from a stream. Whatever a stream announces, no more
// than the longest xzibit is held.
func FuzzCheck(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, x []byte) {
		err := xzibit.Check(x)
		r := bytes.NewReader(append(bytes.Clone(x), "behind"...))
		var read []byte
		var readErr error
		cmtptest.Bounded(t, xzibit.MaxSize+64<<10, func() { read, readErr = xzibit.ReadFrom(r) })
		if readErr == nil && xzibit.Check(read) != nil {
			t.Fatalf("read %x, which is not acceptable", read)
		}
		if err != nil {
			if !errors.Is(err, xzibit.ErrFormat) && !errors.Is(err, xzibit.ErrVersion) && !errors.Is(err, xzibit.ErrParams) {
				t.Fatalf("an undocumented error: %v", err)
			}
			return
		}
		if len(x) > xzibit.MaxSize {
			t.Fatalf("%d bytes are accepted", len(x))
		}
		if again, err := xzibit.Reencode(x); err != nil || !bytes.Equal(again, x) {
			t.Fatalf("%x becomes %x, %v", x, again, err)
		}
		if readErr != nil || !bytes.Equal(read, x) || r.Len() != len("behind") {
			t.Fatalf("%x is read as %x, %d bytes left: %v", x, read, r.Len(), readErr)
		}
	})
}

// FuzzOpen seals any plaintext under the cheapest parameters. What opens re-encodes
// identically; what does not fails with ErrFormat.
func FuzzOpen(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, plaintext []byte, addr string, password []byte) {
		x, err := xzibit.SealPlaintext(plaintext, addr, password, cheap)
		if err != nil {
			if !errors.Is(err, xzibit.ErrAddress) {
				t.Fatal(err)
			}
			return
		}
		k, err := xzibit.Open(x, addr, password)
		if err != nil {
			if !errors.Is(err, xzibit.ErrFormat) {
				t.Fatalf("an undocumented error: %v", err)
			}
			return
		}
		if again, err := k.Encode(); err != nil || !bytes.Equal(again, plaintext) {
			t.Fatalf("%x becomes %x, %v", plaintext, again, err)
		}
		if clear, err := xzibit.DecodeKeyring(plaintext); err != nil || clear.Keys[0].Key.Public() != k.Keys[0].Key.Public() {
			t.Fatalf("what is sealed cannot be read in the clear: %v", err)
		}
		if _, err := xzibit.Open(x, addr+"x", password); !errors.Is(err, xzibit.ErrPassword) {
			t.Fatalf("opens for another address: %v", err)
		}
	})
}

// FuzzCheckCopy: what CheckCopy accepts has bounded length and re-encodes identically.
func FuzzCheckCopy(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := xzibit.CheckCopy(b); err != nil {
			if !errors.Is(err, xzibit.ErrCopy) {
				t.Fatalf("an undocumented error: %v", err)
			}
			return
		}
		if len(b) > xzibit.MaxSize {
			t.Fatalf("%d bytes are accepted", len(b))
		}
		if again, err := xzibit.ReencodeCopy(b); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x becomes %x, %v", b, again, err)
		}
	})
}

// FuzzOpenCopy seals any plaintext to a recovery key, as anybody can. What opens
// re-encodes identically; what does not fails with an error that is documented.
func FuzzOpenCopy(f *testing.F) {
	requireSeeds(f)
	key := newKey(f, 4)
	f.Fuzz(func(t *testing.T, plaintext []byte, addr string) {
		k, err := xzibit.OpenCopy(copyOf(t, key.Public(), plaintext), addr, key)
		if err != nil {
			if !errors.Is(err, xzibit.ErrCopy) && !errors.Is(err, xzibit.ErrRecoveryKey) && !errors.Is(err, xzibit.ErrForged) {
				t.Fatalf("an undocumented error: %v", err)
			}
			return
		}
		again := append(binary.BigEndian.AppendUint32(nil, uint32(len(addr))), addr...)
		if again = append(again, encode(t, k)...); !bytes.Equal(again, plaintext) {
			t.Fatalf("%x becomes %x", plaintext, again)
		}
		if _, err := xzibit.SealCopy(k, addr); err != nil {
			t.Fatalf("%x opens, and is not sealed again: %v", plaintext, err)
		}
	})
}
