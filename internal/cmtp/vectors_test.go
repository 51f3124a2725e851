package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// hexBytes are written in hex.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// vectors is what this package reads of testdata/cmtp-0.01.json.
type vectors struct {
	Keys struct {
		Server struct {
			Public hexBytes `json:"ed25519_public"`
		}
	}
	Body struct {
		Good []struct {
			Name      string
			Timestamp uint32
			Subject   string
			ReplyTo   string `json:"reply_to"`
			CC        []string
			Text      string
			Plaintext hexBytes
		}
		Bad []struct {
			Name      string
			Plaintext hexBytes
		}
	}
	Message struct {
		Good []struct {
			Name    string
			Message hexBytes
			Fields  struct {
				Version            uint32
				AttachmentCount    uint32 `json:"attachment_count"`
				LogLength          uint64 `json:"log_length"`
				BodyLength         uint64 `json:"body_length"`
				DestinationAccount string `json:"destination_account"`
				DestinationDomain  string `json:"destination_domain"`
				SourceAccount      string `json:"source_account"`
				SourceDomain       string `json:"source_domain"`
				Log                hexBytes
				Body               hexBytes
				Attachments        []hexBytes
			}
		}
		Bad []struct {
			Name    string
			Message hexBytes
		}
	}
	Replies []struct {
		Name      string
		Reply     hexBytes
		Signed    hexBytes `json:"signed_bytes"`
		Signature hexBytes
	} `json:"replies_documents_2016"`
	WithNull map[string]hexBytes `json:"signature_of_word_with_null"`
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	b, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{
		"good bodies": len(v.Body.Good), "bad bodies": len(v.Body.Bad), "good messages": len(v.Message.Good),
		"bad messages": len(v.Message.Bad), "replies": len(v.Replies), "key bytes": len(v.Keys.Server.Public),
	} {
		if n == 0 {
			t.Fatalf("the vectors hold no %s", what)
		}
	}
	return v
}

func TestVectors_GoodMessages(t *testing.T) {
	for _, v := range loadVectors(t).Message.Good {
		t.Run(v.Name, func(t *testing.T) {
			f := v.Fields
			want := cmtp.Header{
				System: f.Version, Attachments: f.AttachmentCount, LogLength: f.LogLength, BodyLength: f.BodyLength,
				DestinationAccount: f.DestinationAccount, DestinationDomain: f.DestinationDomain,
				SourceAccount: f.SourceAccount, SourceDomain: f.SourceDomain,
			}
			m, err := cmtp.NewMessageReader(bytes.NewReader(v.Message), uint64(len(v.Message)))
			if err != nil {
				t.Fatal(err)
			}
			if *m.Header() != want {
				t.Errorf("the header is %+v, want %+v", *m.Header(), want)
			}
			got, err := io.ReadAll(m)
			if err != nil || !bytes.Equal(got, v.Message) {
				t.Errorf("MessageReader yields %x, %v, want %x", got, err, v.Message)
			}
			s := parse(t, v.Message)
			if !bytes.Equal(s.log, f.Log) || !bytes.Equal(s.body, f.Body) || len(s.attachments) != len(f.Attachments) {
				t.Fatalf("the parts are %x, %x and %d attachments", s.log, s.body, len(s.attachments))
			}
			again := append(append(want.Append(nil), s.log...), s.body...)
			for i, a := range s.attachments {
				if !bytes.Equal(a, f.Attachments[i]) {
					t.Errorf("attachment %d is %x, want %x", i, a, f.Attachments[i])
				}
				again = append(binary.BigEndian.AppendUint64(again, uint64(len(a))), a...)
			}
			if !bytes.Equal(again, v.Message) {
				t.Errorf("encodes again to %x, want %x", again, v.Message)
			}
			if sum, err := m.Digest(); err != nil || sum != s.core() {
				t.Errorf("the core digest is %x, %v, want %x", sum, err, s.core())
			}
		})
	}
}

func TestVectors_BadMessages(t *testing.T) {
	type verdicts struct{ reader, layout error }
	want := map[string]verdicts{
		"empty":                              {io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
		"cut in the fixed fields":            {io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
		"cut in the body":                    {io.ErrUnexpectedEOF, cmtp.ErrMessage},
		"byte after the end":                 {nil, cmtp.ErrMessage}, // a stream goes on with the next command
		"body length 2^64-1":                 {cmtp.ErrTooLarge, cmtp.ErrTooLarge},
		"attachment count 2^32-1":            {cmtp.ErrTooLarge, cmtp.ErrTooLarge},
		"name of 256 bytes without its null": {cmtp.ErrMessage, cmtp.ErrMessage},
		"attachment length past the end":     {io.ErrUnexpectedEOF, cmtp.ErrMessage},
	}
	for _, v := range loadVectors(t).Message.Bad {
		t.Run(v.Name, func(t *testing.T) {
			want, ok := want[v.Name]
			if !ok {
				t.Fatal("a vector without a verdict here")
			}
			r := bytes.NewReader(v.Message)
			if _, _, err := read(r, 1<<20); !errors.Is(err, want.reader) {
				t.Errorf("MessageReader: %v, want %v", err, want.reader)
			}
			if want.reader == nil && r.Len() != 1 {
				t.Errorf("%d bytes are left, want 1", r.Len())
			}
			_, err := cmtp.ParseLayout(bytes.NewReader(v.Message), int64(len(v.Message)))
			if !errors.Is(err, want.layout) {
				t.Errorf("ParseLayout: %v, want %v", err, want.layout)
			}
		})
	}
}

func TestVectors_Bodies(t *testing.T) {
	v := loadVectors(t)
	for _, v := range v.Body.Good {
		t.Run(v.Name, func(t *testing.T) {
			b, err := cmtp.ParseBody(v.Plaintext)
			if err != nil {
				t.Fatal(err)
			}
			if b.Time != v.Timestamp || b.Subject != v.Subject || b.ReplyTo != v.ReplyTo || string(b.Text) != v.Text ||
				len(b.CC) != len(v.CC) || len(b.CC) > 0 && !reflect.DeepEqual(b.CC, v.CC) {
				t.Errorf("parses to %+v, want %+v", b, v)
			}
			made := &cmtp.Body{Time: v.Timestamp, Subject: v.Subject, ReplyTo: v.ReplyTo, CC: v.CC, Text: []byte(v.Text)}
			if got, err := made.Append(nil); err != nil || !bytes.Equal(got, v.Plaintext) {
				t.Errorf("encodes to %x, %v, want %x", got, err, v.Plaintext)
			}
		})
	}
	for _, v := range v.Body.Bad {
		t.Run(v.Name, func(t *testing.T) {
			if b, err := cmtp.ParseBody(v.Plaintext); !errors.Is(err, cmtp.ErrBody) {
				t.Errorf("parses to %+v, %v", b, err)
			}
		})
	}
}

func TestVectors_Replies(t *testing.T) {
	v := loadVectors(t)
	server := crypt.PublicKey(v.Keys.Server.Public)
	for _, v := range v.Replies {
		t.Run(v.Name, func(t *testing.T) {
			src := bytes.NewReader(append(bytes.Clone(v.Reply), "next"...))
			var signed, again []byte
			var sig crypt.Signature
			var err error
			switch kind, _, _ := strings.Cut(v.Name, ","); kind {
			case "KEYREQUEST":
				var key crypt.PublicKey
				key, sig, err = cmtp.ReadKey(src)
				signed, again = key[:], cmtp.AppendKey(nil, key, sig)
			case "LOGIN":
				signed, sig, err = cmtp.ReadXzibit(src, readXzibit)
				again = cmtp.AppendXzibit(nil, signed, sig)
			case cmtp.Success:
				sig, err = cmtp.ReadWord(src)
				signed, again = []byte(cmtp.Success), cmtp.AppendWord(nil, cmtp.Success, sig)
			case cmtp.Failure:
				checkFailures(t, v.Reply, crypt.Signature(v.Signature))
				sig, err = cmtp.ReadWord(src)
				if !errors.Is(err, cmtp.ErrFailure) {
					t.Fatalf("the error is %v, want ErrFailure", err)
				}
				err, signed, again = nil, []byte(cmtp.Failure), cmtp.AppendWord(nil, cmtp.Failure, sig)
			default:
				t.Fatal("a vector without a reader here")
			}
			if err != nil || !bytes.Equal(signed, v.Signed) || !bytes.Equal(again, v.Reply) {
				t.Fatalf("reads %x, %v, encodes again to %x", signed, err, again)
			}
			if !crypt.Verify(server, signed, sig) {
				t.Error("the signature is not valid")
			}
			if rest, _ := io.ReadAll(src); string(rest) != "next" {
				t.Errorf("%q is left behind the reply", rest)
			}
		})
	}
	// The words' signatures cover no NUL: what the C implementation signed is another thing.
	for word, sig := range v.WithNull {
		if crypt.Verify(server, []byte(word), crypt.Signature(sig)) {
			t.Errorf("a signature of %s with its NUL passes for one without", word)
		}
	}
}

// checkFailures reads FAILURE where a key or a xzibit may come.
func checkFailures(t *testing.T, reply []byte, want crypt.Signature) {
	t.Helper()
	key, sig, err := cmtp.ReadKey(bytes.NewReader(reply))
	if !errors.Is(err, cmtp.ErrFailure) || sig != want || key != (crypt.PublicKey{}) {
		t.Errorf("ReadKey: %x, %x, %v", key, sig, err)
	}
	x, sig, err := cmtp.ReadXzibit(bytes.NewReader(reply), readXzibit)
	if !errors.Is(err, cmtp.ErrFailure) || sig != want || x != nil {
		t.Errorf("ReadXzibit: %x, %x, %v", x, sig, err)
	}
	if s, err := cmtp.ReadString(bytes.NewReader(reply)); !errors.Is(err, cmtp.ErrFailure) {
		t.Errorf("ReadString: %q, %v", s, err)
	}
}

var errXzibit = errors.New("no xzibit")

// readXzibit reads a xzibit's outer layout: version, salt, length, ciphertext.
func readXzibit(r io.Reader) ([]byte, error) {
	b := make([]byte, 4+32+8)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint64(b[36:])
	if n > 4096 {
		return nil, fmt.Errorf("%w: %d bytes", errXzibit, n)
	}
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[44:])
	return b, err
}
