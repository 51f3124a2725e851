package letter

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A copy of a letter that was sent is a letter from its writer to the same account, whose text begins with whom the
// letter went to, and a mark that nobody can make without the account's keys (docs/protocol.md section 29.5).

const (
	sentTo   = "Sent to: "
	sentMark = "Sent mark: "
	sentInfo = "CMTP-1 sent"
)

// Copy returns the copy of a letter that went to these addresses, for the account whose newest key is key. It has the
// letter's attachments.
func (d *Draft) Copy(to []string, key *crypt.PrivateKey) (*Draft, error) {
	var head []byte
	for _, a := range to {
		if a == "" || Line(a) != a {
			return nil, fmt.Errorf("%w: %q is no address", ErrField, a)
		}
		head = fmt.Appendf(head, "%s%s\n", sentTo, a)
	}
	l := *d
	l.Text = append(append(bytes.Clone(head), '\n'), d.Text...)
	body, err := l.body()
	if err != nil {
		return nil, err
	}
	sum, err := markOf(body, key)
	if err != nil {
		return nil, err
	}
	head = fmt.Appendf(head, "%s%s\n", sentMark, base64.StdEncoding.EncodeToString(sum))
	l.Text = append(append(head, '\n'), d.Text...)
	return &l, nil
}

// TakeCopy returns whom a letter went to of which this is the copy, and takes what says so out of the text. It
// returns nil for any other letter, which stays as it is.
func (l *Letter) TakeCopy(keys []*crypt.PrivateKey) (to []string) {
	head, rest := 0, l.Text
	for bytes.HasPrefix(rest, []byte(sentTo)) {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		to = append(to, string(line[len(sentTo):]))
		head, rest = len(l.Text)-len(after), after
	}
	line, text, _ := bytes.Cut(rest, []byte("\n"))
	mark, marked := bytes.CutPrefix(line, []byte(sentMark))
	if text, ended := bytes.CutPrefix(text, []byte("\n")); ended && marked && len(to) > 0 && l.marked(mark, head, text, keys) {
		l.Text = text
		return to
	}
	return nil
}

// marked reports whether a mark is that of the letter with the first head bytes of its text, an empty line, and text.
func (l *Letter) marked(mark []byte, head int, text []byte, keys []*crypt.PrivateKey) bool {
	given, err := base64.StdEncoding.Strict().DecodeString(string(mark))
	if err != nil {
		return false
	}
	b := cmtp.Body{Time: uint32(l.Time.Unix()), Subject: l.Subject, ReplyTo: l.ReplyTo, CC: l.CC}
	b.Text = append(append(bytes.Clone(l.Text[:head]), '\n'), text...)
	body, err := b.Append(nil)
	if err != nil {
		return false
	}
	for _, k := range keys {
		if sum, err := markOf(body, k); err == nil && hmac.Equal(sum, given) {
			return true
		}
	}
	return false
}

// markOf is the mark of a body that has none yet.
func markOf(body []byte, k *crypt.PrivateKey) ([]byte, error) {
	secret := k.Bytes()
	defer clear(secret)
	key, err := hkdf.Key(sha256.New, secret[:crypt.SeedSize], nil, sentInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of marks: %w", err)
	}
	defer clear(key)
	h := hmac.New(sha256.New, key)
	h.Write(body)
	return h.Sum(nil), nil
}
