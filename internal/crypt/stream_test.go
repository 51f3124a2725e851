package crypt_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"

	"cmtpd/internal/crypt"
)

// sizes stand around every border that a stream has.
var sizes = []int{
	0, 1, 31, 32, 33, 64, 95, 96, 97, 1000,
	crypt.ChunkSize - 1, crypt.ChunkSize, crypt.ChunkSize + 1, 3*crypt.ChunkSize + 7,
}

func TestSealer(t *testing.T) {
	k := newKey(t)
	ephemeral := pattern(32)
	for _, n := range sizes {
		plaintext := pattern(n)
		want, err := crypt.SealWith(plaintext, k.Public(), ephemeral)
		if err != nil {
			t.Fatal(err)
		}
		// What stands behind the size is not sealed.
		s, err := crypt.NewSealerWith(bytes.NewReader(append(plaintext, 1, 2, 3)), int64(n), k.Public(), ephemeral)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		written, err := s.WriteTo(&got)
		if err != nil || written != s.Size() || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes: the stream wrote %d of %d, not what Seal makes: %v", n, written, s.Size(), err)
		}
		if _, err := s.WriteTo(io.Discard); !errors.Is(err, crypt.ErrSpent) {
			t.Errorf("%d bytes: written twice: %v", n, err)
		}
	}
}

func TestNewSealer_Fresh(t *testing.T) {
	k, src := newKey(t), bytes.NewReader([]byte("text"))
	var boxes [2]bytes.Buffer
	for i := range boxes {
		s, err := crypt.NewSealer(src, 4, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteTo(&boxes[i]); err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open(nil, boxes[i].Bytes()); err != nil || string(got) != "text" {
			t.Errorf("opened to %q, %v", got, err)
		}
	}
	if bytes.Equal(boxes[0].Bytes(), boxes[1].Bytes()) {
		t.Error("two boxes are alike")
	}
}

func TestNewSealer_Err(t *testing.T) {
	pk, src := newKey(t).Public(), bytes.NewReader(pattern(100))
	if _, err := crypt.NewSealer(src, 101, pk); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short source: %v", err)
	}
	for _, size := range []int64{-1, crypt.MaxPlaintext + 1} {
		if _, err := crypt.NewSealer(src, size, pk); !errors.Is(err, crypt.ErrSize) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	// The largest size is not refused for being large.
	if _, err := crypt.NewSealer(src, crypt.MaxPlaintext, pk); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("size %d: %v", int64(crypt.MaxPlaintext), err)
	}
	if _, err := crypt.NewSealer(src, 100, crypt.PublicKey{}); !errors.Is(err, crypt.ErrPublicKey) {
		t.Errorf("the zero key: %v", err)
	}
}

// A mutable is a file under somebody else's hands.
type mutable struct{ data []byte }

func (m *mutable) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

// TestSealer_ErrChanged changes the source between the passes.
func TestSealer_ErrChanged(t *testing.T) {
	k := newKey(t)
	const n = 2*crypt.ChunkSize + 10
	for name, change := range map[string]func(*mutable){
		"first byte":   func(m *mutable) { m.data[0] ^= 1 },
		"last byte":    func(m *mutable) { m.data[n-1] ^= 1 },
		"shorter":      func(m *mutable) { m.data = m.data[:n-1] },
		"much shorter": func(m *mutable) { m.data = nil },
	} {
		src := &mutable{pattern(n)}
		s, err := crypt.NewSealer(src, n, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		change(src)
		var out bytes.Buffer
		written, err := s.WriteTo(&out)
		if !errors.Is(err, crypt.ErrChanged) || written != int64(out.Len()) || written >= s.Size() {
			t.Errorf("%s: wrote %d of %d, %v", name, written, s.Size(), err)
		}
		if _, err := s.WriteTo(io.Discard); !errors.Is(err, crypt.ErrSpent) {
			t.Errorf("%s: goes on: %v", name, err)
		}
	}
}

// The sum is that of the box, before it is written, and at no other time.
func TestSealer_Sum(t *testing.T) {
	for _, n := range []int64{0, 1, crypt.ChunkSize, 2*crypt.ChunkSize + 10} {
		s, err := crypt.NewSealer(bytes.NewReader(pattern(int(n))), n, newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		sum, err := s.Sum()
		if again, aerr := s.Sum(); err != nil || aerr != nil || again != sum {
			t.Fatalf("%d bytes: %x, %v, then %x, %v", n, sum, err, again, aerr)
		}
		var box bytes.Buffer
		if _, err := s.WriteTo(&box); err != nil || sha256.Sum256(box.Bytes()) != sum {
			t.Errorf("%d bytes: the sum of another box, %v", n, err)
		}
		if _, err := s.Sum(); !errors.Is(err, crypt.ErrSpent) {
			t.Errorf("%d bytes: a sum of what was written: %v", n, err)
		}
	}
}

// Of a source that changed there is no sum, and no box any more.
func TestSealer_Sum_ErrChanged(t *testing.T) {
	const n = crypt.ChunkSize + 10
	for name, change := range map[string]func(*mutable){
		"other bytes": func(m *mutable) { m.data[5] ^= 1 },
		"shorter":     func(m *mutable) { m.data = m.data[:n-1] },
	} {
		src := &mutable{pattern(n)}
		s, err := crypt.NewSealer(src, n, newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		change(src)
		if _, err := s.Sum(); !errors.Is(err, crypt.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.WriteTo(io.Discard); !errors.Is(err, crypt.ErrSpent) {
			t.Errorf("%s: goes on: %v", name, err)
		}
	}
}

// A failing writer takes so many bytes.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

func TestSealer_ErrWrite(t *testing.T) {
	const n = 2 * crypt.ChunkSize
	for _, room := range []int{0, 10, crypt.Overhead, crypt.Overhead + crypt.ChunkSize + 5, n + crypt.Overhead - 1} {
		s, err := crypt.NewSealer(bytes.NewReader(pattern(n)), n, newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		if written, err := s.WriteTo(&failing{room}); !errors.Is(err, errFull) || written != int64(room) {
			t.Errorf("with room for %d: %d, %v", room, written, err)
		}
	}
}

func openAt(t *testing.T, k *crypt.PrivateKey, sealed []byte) *crypt.Plaintext {
	t.Helper()
	p, err := k.OpenAt(bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrivateKey_OpenAt(t *testing.T) {
	k := newKey(t)
	for _, n := range sizes {
		plaintext := pattern(n)
		sealed := mustSeal(t, plaintext, k.Public())
		if p := openAt(t, k, sealed); p.Size() != int64(n) {
			t.Errorf("size is %d, want %d", p.Size(), n)
		}
		got, err := io.ReadAll(openAt(t, k, sealed))
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
		if n <= 1000 {
			if err := iotest.TestReader(openAt(t, k, sealed), plaintext); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

func TestPlaintext_ReadAt(t *testing.T) {
	k := newKey(t)
	const n = 1000
	plaintext := pattern(n)
	p := openAt(t, k, mustSeal(t, plaintext, k.Public()))
	for off := range n + 2 {
		for _, size := range []int{0, 1, 31, 32, 33, 64, 65, 200} {
			b := make([]byte, size)
			got, err := p.ReadAt(b, int64(off))
			want, wantErr := bytes.NewReader(plaintext).ReadAt(make([]byte, size), int64(off))
			if got != want || err != wantErr {
				t.Fatalf("%d bytes at %d: %d, %v; want %d, %v", size, off, got, err, want, wantErr)
			}
			if got > 0 && !bytes.Equal(b[:got], plaintext[off:off+got]) {
				t.Fatalf("%d bytes at %d are wrong", size, off)
			}
		}
	}
	if _, err := p.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("read before the start")
	}
}

// TestPlaintext_Read_ErrChanged changes the box after it was verified.
func TestPlaintext_Read_ErrChanged(t *testing.T) {
	k := newKey(t)
	for name, change := range map[string]func(*mutable){
		"first byte": func(m *mutable) { m.data[crypt.Overhead] ^= 1 },
		"last byte":  func(m *mutable) { m.data[len(m.data)-1] ^= 1 },
		"shorter":    func(m *mutable) { m.data = m.data[:len(m.data)-1] },
		"gone":       func(m *mutable) { m.data = nil },
	} {
		m := &mutable{mustSeal(t, pattern(1000), k.Public())}
		p, err := k.OpenAt(m, int64(len(m.data)))
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		if _, err := io.ReadAll(p); !errors.Is(err, crypt.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, crypt.ErrChanged) {
			t.Errorf("%s: goes on: %v", name, err)
		}
	}
}

func TestPrivateKey_OpenAt_Err(t *testing.T) {
	k := newKey(t)
	sealed := mustSeal(t, pattern(100), k.Public())
	// A box that ends before the size that is claimed for it, wherever.
	for _, n := range []int{0, 31, 48, 100, len(sealed) - 1} {
		if _, err := k.OpenAt(bytes.NewReader(sealed[:n]), int64(len(sealed))); !errors.Is(err, crypt.ErrOpen) {
			t.Errorf("%d bytes for %d: %v", n, len(sealed), err)
		}
	}
	// Even one that is whole up to there.
	if _, err := k.OpenAt(bytes.NewReader(sealed), int64(len(sealed))+1); !errors.Is(err, crypt.ErrOpen) {
		t.Errorf("a whole box of another size: %v", err)
	}
	broken := errors.New("broken disk")
	if _, err := k.OpenAt(brokenDisk{broken}, 1000); !errors.Is(err, broken) || errors.Is(err, crypt.ErrOpen) {
		t.Errorf("a broken disk: %v", err)
	}
	if _, err := crypt.NewSealer(brokenDisk{broken}, 10, k.Public()); !errors.Is(err, broken) {
		t.Errorf("a broken disk: %v", err)
	}
}

type brokenDisk struct{ err error }

func (b brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// endless has any size and no memory.
type endless struct{}

func (endless) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = byte(off + int64(i))
	}
	return len(p), nil
}

// TestStream_Memory seals and opens 16 MiB and looks at what was allocated.
func TestStream_Memory(t *testing.T) {
	const size, limit = 16 << 20, 1 << 20
	k := newKey(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "box"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err := crypt.NewSealer(endless{}, size, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	p, err := k.OpenAt(f, s.Size())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, p); n != size || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > limit {
		t.Errorf("allocated %d bytes, at most %d are right", got, limit)
	}
}
