package cmtp_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// serverKey is the key that signs the examples of docs/protocol.md.
const serverKey = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"

var hexBlock = regexp.MustCompile("(?s)```hex ([a-z0-9-]+)\n(.*?)```")

// document returns docs/protocol.md from one heading to another.
func document(t *testing.T, from, to string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(doc), "\n"+from)
	part, _, ends := strings.Cut(part, "\n"+to)
	if !ok || !ends {
		t.Fatalf("the document has no part from %q to %q", from, to)
	}
	return part
}

// examples returns the hex examples of a part of docs/protocol.md by name.
func examples(t *testing.T, from, to string) map[string][]byte {
	t.Helper()
	found := make(map[string][]byte)
	for _, m := range hexBlock.FindAllStringSubmatch(document(t, from, to), -1) {
		var digits strings.Builder
		for line := range strings.Lines(m[2]) {
			line, _, _ = strings.Cut(line, ";")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		b, err := hex.DecodeString(digits.String())
		if err != nil || len(b) == 0 || found[m[1]] != nil {
			t.Fatalf("the example %s: %d bytes, %v", m[1], len(b), err)
		}
		found[m[1]] = b
	}
	return found
}

// TestDocument holds every example of Part I to the codec.
func TestDocument(t *testing.T) {
	server, err := hex.DecodeString(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	key := crypt.PublicKey(server)
	found := examples(t, "# Part I: ", "# Part II: ")
	checks := map[string]func(b []byte) (again []byte, ok bool){
		"reply-success": func(b []byte) ([]byte, bool) {
			sig, err := cmtp.ReadWord(bytes.NewReader(b))
			return cmtp.AppendWord(nil, cmtp.Success, sig), err == nil && crypt.Verify(key, []byte(cmtp.Success), sig)
		},
		"reply-failure": func(b []byte) ([]byte, bool) {
			sig, err := cmtp.ReadWord(bytes.NewReader(b))
			return cmtp.AppendWord(nil, cmtp.Failure, sig), errors.Is(err, cmtp.ErrFailure) && crypt.Verify(key, []byte(cmtp.Failure), sig)
		},
		"reply-key-server": func(b []byte) ([]byte, bool) {
			k, sig, err := cmtp.ReadKey(bytes.NewReader(b))
			return cmtp.AppendKey(nil, k, sig), err == nil && k == key && crypt.Verify(key, k[:], sig)
		},
		"reply-key-alice": func(b []byte) ([]byte, bool) {
			k, sig, err := cmtp.ReadKey(bytes.NewReader(b))
			return cmtp.AppendKey(nil, k, sig), err == nil && crypt.Verify(key, k[:], sig)
		},
		"reply-login-alice": func(b []byte) ([]byte, bool) {
			x, sig, err := cmtp.ReadXzibit(bytes.NewReader(b), func(r io.Reader) ([]byte, error) {
				return io.ReadAll(io.LimitReader(r, int64(len(found["xzibit-1-alice"]))))
			})
			return cmtp.AppendXzibit(nil, x, sig), err == nil && bytes.Equal(x, found["xzibit-1-alice"]) && crypt.Verify(key, x, sig)
		},
		"reply-ohai": func(b []byte) ([]byte, bool) {
			s, err := cmtp.ReadString(bytes.NewReader(b))
			return cmtp.AppendString(nil, s), err == nil && strings.HasPrefix(s, "OHAICMTP/0.01 ")
		},
		"reply-help": func(b []byte) ([]byte, bool) { return cmtp.AppendString(nil, cmtp.HelpText), true },
		"message-one-null-log": func(b []byte) ([]byte, bool) {
			src := bufio.NewReader(bytes.NewReader(b))
			m, err := cmtp.NewMessageReader(src, uint64(len(b)))
			if err != nil {
				return nil, false
			}
			again, err := io.ReadAll(m)
			if err != nil {
				return again, false
			}
			sum, err := m.Digest()
			return again, err == nil && bytes.Equal(sum[:], found["core-digest"]) && bytes.HasSuffix(b, found["sealed-body"])
		},
		"body-no-copy":  body,
		"body-one-copy": body,
		"attachment": func(b []byte) ([]byte, bool) {
			name, n, err := cmtp.CutFileName(b)
			return append([]byte(name+"\x00"), b[n:]...), err == nil
		},
	}
	within := []string{"core-digest", "sealed-body", "xzibit-1-alice"} // checked as parts of others
	// Checked by internal/xzibit.
	elsewhere := []string{
		"keyring-alice", "unlock-seed", "unlock-key", "unlock-blind", "unlock-blinded", "unlock-evaluated", "unlock-output",
		"xzibit-3-alice", "recovery-entropy", "recovery-seed", "recovery-copy",
	}
	if known := len(checks) + len(within) + len(elsewhere); len(found) != known {
		t.Errorf("Part I has %d examples, the test knows %d", len(found), known)
	}
	for name, check := range checks {
		b := found[name]
		if again, ok := check(b); b == nil || !ok || !bytes.Equal(again, b) {
			t.Errorf("%s: the codec makes\n%x of\n%x, accepted: %v", name, again, b, ok)
		}
	}
}

func body(b []byte) ([]byte, bool) {
	p, err := cmtp.ParseBody(b)
	if err != nil {
		return nil, false
	}
	again, err := p.Append(nil)
	return again, err == nil
}
