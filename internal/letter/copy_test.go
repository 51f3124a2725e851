package letter_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

// keyOf is the key with the seed that counts up from first.
func keyOf(t *testing.T, first byte) *crypt.PrivateKey {
	t.Helper()
	var seed [crypt.SeedSize]byte
	for i := range seed {
		seed[i] = first + byte(i)
	}
	key, err := crypt.PrivateKeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var copied = letter.Draft{Time: time.Unix(1_800_000_000, 0), Subject: "A plan", CC: []string{"dora@example.net"}, Text: []byte("Hello\n")}

// copyOf is a copy, as who opens it has it.
func copyOf(t *testing.T, d *letter.Draft, to []string, key *crypt.PrivateKey) *letter.Letter {
	t.Helper()
	c, err := d.Copy(to, key)
	if err != nil {
		t.Fatal(err)
	}
	return &letter.Letter{Time: c.Time, Subject: c.Subject, ReplyTo: c.ReplyTo, CC: c.CC, Text: c.Text}
}

func TestDraft_Copy(t *testing.T) {
	key, older := keyOf(t, 0), keyOf(t, 1)
	to := []string{"bob@example.org", "carol@example.org"}
	for _, text := range []string{"Hello\n", "", "Sent to: dora@example.net\nSent mark: x\n\n", "\n\n"} {
		d := copied
		d.Text = []byte(text)
		l := copyOf(t, &d, to, key)
		if got := l.TakeCopy([]*crypt.PrivateKey{older, key}); !slices.Equal(got, to) || string(l.Text) != text {
			t.Errorf("%q is %q to %q", text, l.Text, got)
		}
	}
	for _, a := range []string{"", "bob@example.org\nSent to: eve@example.org"} {
		if _, err := copied.Copy([]string{a}, key); err == nil {
			t.Errorf("copied a letter to %q", a)
		}
	}
}

// Nobody but who has the key makes a copy, nor one copy out of another.
func TestLetter_TakeCopy_Other(t *testing.T) {
	key := keyOf(t, 0)
	to := []string{"bob@example.org", "carol@example.org"}
	for name, change := range map[string]func(*letter.Letter){
		"Time":         func(l *letter.Letter) { l.Time = l.Time.Add(time.Second) },
		"Subject":      func(l *letter.Letter) { l.Subject = "Another" },
		"ReplyTo":      func(l *letter.Letter) { l.ReplyTo = to[0] },
		"Copies":       func(l *letter.Letter) { l.CC = nil },
		"Text":         func(l *letter.Letter) { l.Text = append(l.Text, 'x') },
		"Recipient":    func(l *letter.Letter) { l.Text = bytes.Replace(l.Text, []byte("bob"), []byte("rob"), 1) },
		"NoRecipients": func(l *letter.Letter) { l.Text = l.Text[bytes.Index(l.Text, []byte("Sent mark")):] },
		"Lines":        func(l *letter.Letter) { l.Text = bytes.Replace(l.Text, []byte("\n\n"), []byte("\n"), 1) },
		"CRLF":         func(l *letter.Letter) { l.Text = bytes.ReplaceAll(l.Text, []byte("\n"), []byte("\r\n")) },
		"NoMark":       func(l *letter.Letter) { l.Text = []byte("Sent to: bob@example.org\n\nHello\n") },
		"OpenLine":     func(l *letter.Letter) { l.Text = []byte("Sent to: bob@example.org") },
		"Empty":        func(l *letter.Letter) { l.Text = nil },
	} {
		l := copyOf(t, &copied, to, key)
		change(l)
		was := bytes.Clone(l.Text)
		if got := l.TakeCopy([]*crypt.PrivateKey{key}); got != nil || !bytes.Equal(l.Text, was) {
			t.Errorf("%s: to %q, with %q", name, got, l.Text)
		}
	}
	l := copyOf(t, &copied, to, key)
	if got := l.TakeCopy([]*crypt.PrivateKey{keyOf(t, 1)}); got != nil {
		t.Errorf("with another key: to %q", got)
	}
}

// The example of docs/protocol.md section 29.5.
func TestDraft_Copy_Example(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	l := copyOf(t, &copied, []string{"bob@example.org", "carol@example.org"}, keyOf(t, 0))
	_, section, _ := strings.Cut(string(doc), "\n### 29.5 ")
	section, _, _ = strings.Cut(section, "\n## ")
	if !strings.Contains(section, "```\n"+string(l.Text)+"```\n") {
		t.Errorf("it does not have\n%s", l.Text)
	}
}
