package spool_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// A segment that cannot be begun, as when the process is out of files, costs the
// messages that wait for it and nothing else.
func TestWriter_Commit_NoRoom(t *testing.T) {
	key, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	fs := durabletest.New()
	s, err := spool.Open("/spool", spool.Options{FS: fs, Key: key, Identity: key, SegmentSize: 4 << 10, NoSpare: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(n byte) error {
		w := s.NewWriter()
		defer w.Abort()
		if _, err := w.Write(bytes.Repeat([]byte{n}, 3000)); err != nil {
			return err
		}
		_, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID{1}, Digest: [32]byte{n}})
		return err
	}
	if err := put(1); err != nil {
		t.Fatal(err)
	}
	fs.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "create" && strings.Contains(c.Path, "/tmp/") {
			return durabletest.Before
		}
		return durabletest.None
	})
	if err := put(2); !errors.Is(err, spool.ErrNoRoom) || errors.Is(err, spool.ErrFailed) {
		t.Fatalf("without room: %v, want ErrNoRoom alone", err)
	}
	fs.Inject(nil)
	if err := put(3); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if got := s.Stats().Messages; got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}
