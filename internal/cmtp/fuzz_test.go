package cmtp_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"testing/iotest"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// Every fuzz target has inputs to begin with.
func TestFuzz_Corpora(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`).FindAllSubmatch(src, -1) {
			found++
			entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", string(m[1])))
			if err != nil || len(entries) == 0 {
				t.Errorf("%s has no corpus: %v", m[1], err)
			}
		}
	}
	if found < 5 {
		t.Errorf("%d fuzz targets are found, want 5 or more", found)
	}
}

// sentinels are the errors of the package, to compare verdicts by.
var sentinels = []error{
	cmtp.ErrShort, cmtp.ErrCommand, cmtp.ErrMessage, cmtp.ErrTooLarge, cmtp.ErrSystem, cmtp.ErrBody,
	cmtp.ErrReply, cmtp.ErrForm, cmtp.ErrFailure, io.ErrUnexpectedEOF, errXzibit,
}

// verdict returns the sentinel that err wraps. Every error must wrap one.
func verdict(t *testing.T, err error) error {
	t.Helper()
	if err == nil {
		return nil
	}
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s
		}
	}
	t.Fatalf("an error that wraps none of the package's: %v", err)
	return nil
}

// FuzzParseCommand: a stream of commands gives the same verdicts one byte at a
// time, a known command encodes again identically, and no more than MaxCommand
// bytes ever have to be waited for.
func FuzzParseCommand(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 4*cmtp.MaxCommand)]
		for {
			cmd, n, err := cmtp.ParseCommand(in)
			if err != nil {
				if _, again, err2 := cmtp.ParseCommand(in[n:]); again != 0 || verdict(t, err2) != verdict(t, err) {
					t.Fatalf("without %d bytes of filler: %d, %v after %v", n, again, err2, err)
				}
				if len(in)-n >= cmtp.MaxCommand && err == cmtp.ErrShort {
					t.Fatalf("%d bytes are not enough for a command", len(in)-n)
				}
				if errors.Is(err, cmtp.ErrCommand) {
					checkFirstVerdict(t, in)
				}
				return
			}
			checkOneByteAtATime(t, in[:n])
			command := bytes.TrimLeft(in[:n], "\x00\r\n")
			if cmd.Verb != cmtp.Unknown && !bytes.Equal(cmd.Append(nil), command) {
				t.Fatalf("%q encodes again to %q", command, cmd.Append(nil))
			}
			if len(command) > cmtp.MaxCommand {
				t.Fatalf("a command of %d bytes", len(command))
			}
			for i, p := range cmd.Params {
				if len(p) > cmtp.MaxString || bytes.IndexByte(p, 0) >= 0 {
					t.Fatalf("parameter %d is %q", i, p)
				}
			}
			in = in[n:]
		}
	})
}

// checkFirstVerdict parses every beginning of what is no command: all are short
// until one is refused, and from there on all are.
func checkFirstVerdict(t *testing.T, in []byte) {
	t.Helper()
	refused := false
	for i := range in {
		_, _, err := cmtp.ParseCommand(in[:i])
		switch {
		case errors.Is(err, cmtp.ErrCommand):
			refused = true
		case err != cmtp.ErrShort || refused:
			t.Fatalf("%d of %d bytes: %v", i, len(in), err)
		}
	}
}

// FuzzMessageReader: the verdict, the bytes yielded and the bytes taken do not
// depend on the segmentation; what is accepted is yielded as it was, encodes
// again identically, has the right digest and is a message to ParseLayout too.
func FuzzMessageReader(f *testing.F) {
	buf := make([]byte, 4096)
	f.Fuzz(func(t *testing.T, in []byte, limit uint64) {
		cmtptest.Bounded(t, 256<<10, func() {
			if m, err := cmtp.NewMessageReader(&source{Reader: bytes.NewReader(in)}, limit); err == nil {
				for err == nil {
					_, err = m.Read(buf)
				}
			}
		})
		src := &source{Reader: bytes.NewReader(in)}
		got, sum, err := read(src, limit)
		if uint64(len(got)) > limit || !bytes.HasPrefix(in, got) {
			t.Fatalf("%d bytes are yielded under a limit of %d: %x of %x", len(got), limit, got, in)
		}
		for name, segment := range segmentations {
			other := &source{Reader: segment(bytes.NewReader(in))}
			got2, sum2, err2 := read(other, limit)
			if !bytes.Equal(got2, got) || sum2 != sum || other.taken != src.taken || verdict(t, err2) != verdict(t, err) {
				t.Fatalf("%s: %d bytes yielded, %d taken, %v; want %d, %d, %v",
					name, len(got2), other.taken, err2, len(got), src.taken, err)
			}
		}
		if err != nil {
			return
		}
		if len(got) != src.taken {
			t.Fatalf("%d bytes are yielded of %d taken", len(got), src.taken)
		}
		s := parse(t, got)
		if !bytes.Equal(s.bytes(), got) || s.core() != sum {
			t.Fatalf("%x encodes again to %x, digest %x, want %x", got, s.bytes(), sum, s.core())
		}
	})
}

// FuzzParseLayout: what is a message to ParseLayout encodes again identically and
// is one to MessageReader; what is none is refused there or leaves bytes over.
func FuzzParseLayout(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var l *cmtp.Layout
		var err error
		// What a layout holds is in proportion to the message: an extent for
		// every eight bytes, and what growing a slice of them costs.
		cmtptest.Bounded(t, 256<<10+16*uint64(len(in)), func() { l, err = cmtp.ParseLayout(r, r.Size()) })
		src := &source{Reader: bytes.NewReader(in)}
		got, _, errRead := read(src, uint64(len(in)))
		if err != nil {
			verdict(t, err)
			if errRead == nil && src.taken == len(in) {
				t.Fatalf("ParseLayout refuses what MessageReader takes: %v", err)
			}
			return
		}
		if errRead != nil || !bytes.Equal(got, in) {
			t.Fatalf("MessageReader refuses what ParseLayout takes: %v", errRead)
		}
		var again bytes.Buffer
		s := parse(t, in)
		if err := write(&again, s); err != nil {
			t.Fatalf("WriteMessage refuses it: %v", err)
		}
		if len(l.Log) == 0 { // written as a lone NUL
			s.log = []byte{0}
		}
		if !bytes.Equal(again.Bytes(), s.bytes()) || len(l.Log) > 0 && !bytes.Equal(again.Bytes(), in) {
			t.Fatalf("%x is written again as %x", in, again.Bytes())
		}
		if b := append(l.Header.Append(nil), l.Log...); !bytes.HasPrefix(in, b) || int64(len(b)) != l.Body.Offset {
			t.Fatalf("the header and log encode again to %x", b)
		}
	})
}

// FuzzParseBody: what is accepted encodes again identically.
func FuzzParseBody(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		var b *cmtp.Body
		var err error
		// A copy of one byte, with its NUL, costs a string's header and the slice's growth.
		cmtptest.Bounded(t, 64<<10+64*uint64(len(in)), func() { b, err = cmtp.ParseBody(in) })
		if err != nil {
			if verdict(t, err) != cmtp.ErrBody {
				t.Fatal(err)
			}
		} else if again, err := b.Append(nil); err != nil || !bytes.Equal(again, in) {
			t.Fatalf("%x encodes again to %x, %v", in, again, err)
		}
		name, n, err := cmtp.CutFileName(in)
		if err != nil {
			if verdict(t, err) != cmtp.ErrBody {
				t.Fatal(err)
			}
		} else if string(in[:n]) != name+"\x00" || len(name) > cmtp.MaxFileName {
			t.Fatalf("a name of %d bytes in %d", len(name), n)
		}
	})
}

// FuzzReplies: a reply that is accepted encodes again identically, not a byte
// behind it is taken, and the verdict does not depend on the segmentation.
func FuzzReplies(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		for kind, read := range replyReaders {
			src := &source{Reader: bytes.NewReader(in)}
			var again []byte
			var err error
			cmtptest.Bounded(t, 64<<10, func() { again, err = read(src) })
			other := &source{Reader: iotest.OneByteReader(bytes.NewReader(in))}
			again2, err2 := read(other)
			if verdict(t, err2) != verdict(t, err) || other.taken != src.taken || !bytes.Equal(again2, again) {
				t.Fatalf("%s: %d bytes, %v; one at a time %d bytes, %v", kind, src.taken, err, other.taken, err2)
			}
			if err == nil && !bytes.Equal(again, in[:src.taken]) {
				t.Fatalf("%s: %x encodes again to %x", kind, in[:src.taken], again)
			}
		}
	})
}
