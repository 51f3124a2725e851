package letter_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

// What is signed is the message that is written, and no other.
func TestMessage_Sign(t *testing.T) {
	k := key(t, 3)
	m, err := draft().Seal(alice, bob, key(t, 1).Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Sign(now, k); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := m.WriteTo(&b); err != nil || n != m.Size() || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes, %v", n, m.Size(), err)
	}
	r, err := cmtp.NewMessageReader(bytes.NewReader(b.Bytes()), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	digest, err := r.Digest()
	if err != nil {
		t.Fatal(err)
	}
	entries := cmtp.LogEntries(r.Log())
	if len(entries) != 1 {
		t.Fatalf("the log is %q", entries)
	}
	s, err := crypt.ParseSender(entries[0])
	if err != nil || s.Name != alice || s.When != crypt.UnixTimeOf(now) || !s.Verify(digest, k.Public()) {
		t.Errorf("signed as %+v, %v", s, err)
	}
}

// A file that changes between the passes is neither signed nor sent.
func TestMessage_Sign_ErrChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := letter.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := (&letter.Draft{Time: now, Attachments: []letter.Attachment{f.Attachment()}}).Seal(alice, bob, key(t, 1).Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("longer than before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Sign(now, key(t, 3)); !errors.Is(err, letter.ErrChanged) || m.Log != nil {
		t.Errorf("signed a file that changed: %q, %v", m.Log, err)
	}
	if _, err := m.WriteTo(io.Discard); !errors.Is(err, crypt.ErrSpent) {
		t.Errorf("it is sent all the same: %v", err)
	}
}

// A log without room for the signature is not sent.
func TestMessage_Sign_NoRoom(t *testing.T) {
	for room, want := range map[int]error{0: nil, -1: cmtp.ErrTooLarge} {
		m, err := (&letter.Draft{Time: now}).Seal(alice, bob, key(t, 1).Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Sign(now, key(t, 3)); err != nil {
			t.Fatal(err)
		}
		m.Log = bytes.Repeat([]byte("x"), cmtp.MaxLog-len(m.Log)-room)
		m.Log[len(m.Log)-1] = 0
		if err := m.Sign(now, key(t, 3)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.WriteTo(io.Discard); !errors.Is(err, want) {
			t.Errorf("with %d bytes too few: %v", -room, err)
		}
	}
}
