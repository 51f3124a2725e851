package cmtp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

var (
	someKey = crypt.PublicKey(counted(32, 5))
	someSig = crypt.Signature(counted(64, 3))
)

// replyReaders read each kind of reply and encode again what they read.
var replyReaders = map[string]func(*source) ([]byte, error){
	"Word": func(r *source) ([]byte, error) {
		sig, err := cmtp.ReadWord(r)
		return cmtp.AppendWord(nil, cmtp.Success, sig), err
	},
	"Key": func(r *source) ([]byte, error) {
		key, sig, err := cmtp.ReadKey(r)
		if err != nil && key != (crypt.PublicKey{}) {
			return nil, fmt.Errorf("a key comes with the error %w", err)
		}
		return cmtp.AppendKey(nil, key, sig), err
	},
	"Xzibit": func(r *source) ([]byte, error) {
		x, sig, err := cmtp.ReadXzibit(r, readXzibit)
		if err != nil && x != nil {
			return nil, fmt.Errorf("a xzibit comes with the error %w", err)
		}
		return cmtp.AppendXzibit(nil, x, sig), err
	},
	"String": func(r *source) ([]byte, error) {
		s, err := cmtp.ReadString(r)
		return cmtp.AppendString(nil, s), err
	},
}

// replies are replies of each kind.
func replies() map[string][][]byte {
	xzibit := append(append([]byte{0, 0, 0, 2}, counted(32, 1)...), 0, 0, 0, 0, 0, 0, 0, 3, 'x', 'y', 'z')
	return map[string][][]byte{
		"Word":   {cmtp.AppendWord(nil, cmtp.Success, someSig)},
		"Key":    {cmtp.AppendKey(nil, someKey, someSig)},
		"Xzibit": {cmtp.AppendXzibit(nil, xzibit, someSig)},
		"String": {
			cmtp.AppendString(nil, "OHAICMTP/0.01 cmtpd/0.1.0"), cmtp.AppendString(nil, ""), cmtp.AppendString(nil, "FAI"),
			cmtp.AppendString(nil, strings.Repeat("v", 1023)), cmtp.AppendString(nil, "ü"),
		},
	}
}

func TestReplies_Segmentation(t *testing.T) {
	for kind, replies := range replies() {
		for name, segment := range segmentations {
			t.Run(kind+name, func(t *testing.T) {
				for _, reply := range replies {
					src := &source{Reader: segment(bytes.NewReader(append(bytes.Clone(reply), sentinel...)))}
					again, err := replyReaders[kind](src)
					if err != nil || !bytes.Equal(again, reply) {
						t.Errorf("reads %x, %v, want %x", again, err, reply)
					}
					if src.taken != len(reply) {
						t.Errorf("%d bytes were taken of a reply of %d", src.taken, len(reply))
					}
				}
			})
		}
	}
}

func TestReplies_Cut(t *testing.T) {
	broken := errors.New("the line is broken")
	failure := cmtp.AppendWord(nil, cmtp.Failure, someSig)
	for kind, replies := range replies() {
		whole := replies[:1:1]
		if kind != "String" {
			whole = append(whole, failure)
		}
		for _, reply := range whole {
			for n := range reply {
				if _, err := replyReaders[kind](&source{Reader: bytes.NewReader(reply[:n])}); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s cut after %d of %d bytes: %v", kind, n, len(reply), err)
				}
				src := &source{Reader: io.MultiReader(bytes.NewReader(reply[:n]), iotest.ErrReader(broken))}
				if _, err := replyReaders[kind](src); !errors.Is(err, broken) {
					t.Errorf("%s broken after %d of %d bytes: %v", kind, n, len(reply), err)
				}
			}
		}
	}
}

func TestReplies_Failure(t *testing.T) {
	failure := cmtp.AppendWord(nil, cmtp.Failure, someSig)
	for kind, read := range replyReaders {
		src := &source{Reader: bytes.NewReader(append(bytes.Clone(failure), sentinel...))}
		if _, err := read(src); !errors.Is(err, cmtp.ErrFailure) {
			t.Errorf("%s: %v, want ErrFailure", kind, err)
		}
		want := len(failure)
		if kind == "String" { // it says all after four bytes, and the stream is of no more use
			want = 4
		}
		if src.taken != want {
			t.Errorf("%s: %d bytes were taken, want %d", kind, src.taken, want)
		}
	}
}

func TestReplies_Refusals(t *testing.T) {
	unended := func(b []byte) []byte { return append(b[:len(b)-1], 1) }
	r := replies()
	for name, c := range map[string]struct {
		kind  string
		reply []byte
		want  error
		taken int // 0: all
	}{
		"WordNoNUL":       {"Word", unended(r["Word"][0]), cmtp.ErrReply, 0},
		"WordFailNoNUL":   {"Word", unended(cmtp.AppendWord(nil, cmtp.Failure, someSig)), cmtp.ErrReply, 0},
		"WordIsAnother":   {"Word", []byte("500 5.5.2 what?\r\n"), cmtp.ErrReply, 7},
		"WordLowerCase":   {"Word", []byte("success" + strings.Repeat("s", 65)), cmtp.ErrReply, 7},
		"KeyNoNUL":        {"Key", unended(r["Key"][0]), cmtp.ErrReply, 0},
		"KeyVersion0":     {"Key", append([]byte{0, 0, 0, 0}, r["Key"][0][4:]...), cmtp.ErrReply, 4},
		"KeyVersion2":     {"Key", append([]byte{0, 0, 0, 2}, r["Key"][0][4:]...), cmtp.ErrReply, 4},
		"KeyIsSuccess":    {"Key", r["Word"][0], cmtp.ErrReply, 4},
		"KeyFailNoNUL":    {"Key", unended(cmtp.AppendWord(nil, cmtp.Failure, someSig)), cmtp.ErrReply, 0},
		"KeyFailOther":    {"Key", append([]byte("FAILED!"), make([]byte, 65)...), cmtp.ErrReply, 7},
		"XzibitNoNUL":     {"Xzibit", unended(r["Xzibit"][0]), cmtp.ErrReply, 0},
		"XzibitNone":      {"Xzibit", bytes.Repeat([]byte{0xff}, 44), errXzibit, 44},
		"XzibitFailOther": {"Xzibit", append([]byte("FAILED!"), make([]byte, 65)...), cmtp.ErrReply, 7},
		"StringTooLong":   {"String", []byte(strings.Repeat("v", 1024)), cmtp.ErrReply, 0},
		"StringNotUTF8":   {"String", []byte("\xff\x00"), cmtp.ErrReply, 0},
	} {
		t.Run(name, func(t *testing.T) {
			src := &source{Reader: io.MultiReader(bytes.NewReader(c.reply), generator(0))}
			if _, err := replyReaders[c.kind](src); !errors.Is(err, c.want) || errors.Is(err, cmtp.ErrFailure) {
				t.Errorf("the error is %v, want %v", err, c.want)
			}
			if c.taken == 0 {
				c.taken = len(c.reply)
			}
			if src.taken != c.taken {
				t.Errorf("%d bytes were taken, want %d", src.taken, c.taken)
			}
		})
	}
}
