package admin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
)

var received = time.Unix(1e9, 0).UTC()

// fill makes the data of a server: a user, and a message to each box, of which the
// second is large.
func fill(t *testing.T, cfg *config.Config) (user *account.Account, messages []string) {
	t.Helper()
	u := openUsers(t, cfg)
	user, err := u.Create(alice, []byte("password"))
	if err := errors.Join(err, u.Close()); err != nil {
		t.Fatal(err)
	}
	identity, err := keyfile.Load(cfg.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	own, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(cfg.SpoolDir(), spool.Options{FS: durable.OS, Key: own, Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	for i, box := range []account.ID{user.ID, user.ID, account.Operator} {
		h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "alice", DestinationDomain: "example.org",
			SourceAccount: "bob", SourceDomain: "other.example"}
		var msg bytes.Buffer
		body := bytesPart(bytes.Repeat([]byte{byte('a' + i)}, 100))
		if i == 1 {
			body = bytes.Repeat([]byte("large"), 100000)
		}
		if err := cmtp.WriteMessage(&msg, h, []byte("one\x00two\x00"), body, []cmtp.Part{bytesPart(make([]byte, 48))}); err != nil {
			t.Fatal(err)
		}
		w := s.NewWriter()
		if _, err := w.Write(msg.Bytes()); err != nil {
			t.Fatal(err)
		}
		stored, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID(box), Digest: [32]byte{byte(i)}, Received: received, From: "192.0.2.1"})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if _, err := s.Mark(context.Background(), stored.ID, spool.Mark{Flags: spool.FlagSeen | spool.FlagFlagged}); err != nil {
				t.Fatal(err)
			}
		}
		messages = append(messages, msg.String())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return user, messages
}

type bytesPart []byte

func (b bytesPart) Size() int64 { return int64(len(b)) }

func (b bytesPart) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

func openSpool(t *testing.T, cfg *config.Config) *admin.Spool {
	t.Helper()
	s, err := admin.OpenSpool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func collect(t *testing.T, seq iter.Seq2[spool.Info, error]) (infos []spool.Info) {
	t.Helper()
	for info, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	return infos
}

// What is shown of a message, and to whom it is counted.
func TestSpool(t *testing.T) {
	cfg := datadirtest.Config(t)
	user, messages := fill(t, cfg)
	s := openSpool(t, cfg)
	for _, tt := range []struct {
		addr address.Address
		want []int
	}{{alice, []int{0, 1}}, {address.Address{}, []int{0, 1, 2}}} {
		seq, err := s.Select(tt.addr)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, info := range collect(t, seq) {
			var b bytes.Buffer
			if err := s.Export(info.ID, &b); err != nil {
				t.Fatal(err)
			}
			got = append(got, b.String())
		}
		var want []string
		for _, i := range tt.want {
			want = append(want, messages[i])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q has %d messages, want %d", tt.addr, len(got), len(want))
		}
	}
	if _, err := s.Select(mustAddress("nobody@example.org")); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("messages of nobody: %v", err)
	}
	if got := collect(t, s.Operator()); len(got) != 1 || got[0].Mailbox != spool.MailboxID(account.Operator) {
		t.Errorf("the operator has %+v", got)
	}
	info := collect(t, s.All(0))[1]
	view, err := s.View(info)
	if err != nil {
		t.Fatal(err)
	}
	want := admin.MessageView{
		ID: info.ID.String(), Mailbox: user.ID.String(), Received: received, From: "192.0.2.1", Source: "bob@other.example",
		Destination: "alice@example.org", Size: int64(len(messages[1])), System: 1, Attachments: 1,
		Digest: fmt.Sprintf("%x", [32]byte{1}), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(messages[1]))), Large: true,
		Flags: 5, FlagNames: []string{"seen", "flagged"}, Change: info.Change,
		Log: []string{"one", "two"},
	}
	if !slices.Equal(view.Log, want.Log) {
		t.Errorf("the log is %q", view.Log)
	}
	view.Log, want.Log = nil, nil
	if fmt.Sprint(view) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", view, want)
	}
}

func TestOpenSpool_None(t *testing.T) {
	if _, err := admin.OpenSpool(datadirtest.Config(t)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "cmtpd serve") {
		t.Errorf("without a spool: %v", err)
	}
}

// A message goes to a new file of its owner's, whole or not at all.
func TestSpool_ExportFile(t *testing.T) {
	cfg := datadirtest.Config(t)
	_, messages := fill(t, cfg)
	s := openSpool(t, cfg)
	path := filepath.Join(t.TempDir(), "message")
	small, large := collect(t, s.All(0))[0], collect(t, s.All(0))[1]
	if err := s.ExportFile(small.ID, path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if data, rerr := os.ReadFile(path); errors.Join(err, rerr) != nil || string(data) != messages[0] || info.Mode() != 0o600 {
		t.Errorf("the file has %d bytes and mode %v, %v", len(data), info.Mode(), errors.Join(err, rerr))
	}
	if err := s.ExportFile(large.ID, path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != messages[0] {
		t.Errorf("the file that was there has %d bytes, %v", len(data), err)
	}
	if err := s.ExportFile(spool.ID(999), path+"2"); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("a message that is not there: %v", err)
	}
	damageLarge(t, cfg)
	if err := s.ExportFile(large.ID, path+"2"); !errors.Is(err, spool.ErrDamaged) {
		t.Errorf("a damaged message: %v", err)
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of it is left: %v", err)
	}
}

// damageLarge changes one byte of every message that has its own file.
func damageLarge(t *testing.T, cfg *config.Config) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cfg.SpoolDir(), "large", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are %d large files, %v", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(f, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerify(t *testing.T) {
	cfg := datadirtest.Config(t)
	fill(t, cfg)
	last := int64(0)
	report, err := admin.Verify(context.Background(), cfg, func(done, _ int64) { last = done })
	if err != nil || report.Err() != nil || report.Messages != 3 || last == 0 {
		t.Errorf("%+v, %v, progress to %d", report, err, last)
	}
	if report, err := admin.Verify(context.Background(), cfg, nil, spool.Head{Number: 99}); err != nil || !errors.Is(report.Err(), spool.ErrUnproven) {
		t.Errorf("with a head that is not there: %+v, %v", report, err)
	}
	damageLarge(t, cfg)
	if report, err := admin.Verify(context.Background(), cfg, nil); err != nil || !errors.Is(report.Err(), spool.ErrUnproven) {
		t.Errorf("with a changed byte: %+v, %v", report, err)
	}
	if err := os.Remove(cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Verify(context.Background(), cfg, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the identity key: %v", err)
	}
}

// Mail to the server itself opens with the server's key, and no other mail does.
func TestSpool_ReadOwn(t *testing.T) {
	cfg := datadirtest.Config(t)
	user, _ := fill(t, cfg)
	identity, err := keyfile.Load(cfg.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	own, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	w, err := spool.Open(cfg.SpoolDir(), spool.Options{FS: durable.OS, Key: own, Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	draft := letter.Draft{Time: received, Subject: "to the postmaster", Text: []byte("something is wrong")}
	put := func(key crypt.PublicKey, n byte) spool.ID {
		m, err := draft.Seal(mustAddress("bob@other.example"), alice, key)
		if err != nil {
			t.Fatal(err)
		}
		msg := w.NewWriter()
		if _, err := m.WriteTo(msg); err != nil {
			t.Fatal(err)
		}
		stored, err := msg.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID(account.Operator), Digest: [32]byte{100, n}, Received: received})
		if err != nil {
			t.Fatal(err)
		}
		return stored.ID
	}
	ours, users := put(identity.Public(), 1), put(user.Key, 2)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, cfg)
	called := false
	err = s.ReadOwn(ours, func(l *letter.Letter) error {
		called = true
		if l.Subject != draft.Subject || string(l.Text) != string(draft.Text) {
			t.Errorf("it reads %q, %q", l.Subject, l.Text)
		}
		return nil
	})
	if err != nil || !called {
		t.Errorf("the server's own mail: called %v, %v", called, err)
	}
	err = s.ReadOwn(users, func(*letter.Letter) error {
		t.Error("a user's mail was opened")
		return nil
	})
	if !errors.Is(err, letter.ErrKeys) {
		t.Errorf("a user's mail: %v, want ErrKeys", err)
	}
}
