package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/letter"
)

// TestSpoolRead: the operator reads what a stranger has sealed to the server's own
// key, and saves the files beside the running daemon. Nothing in it is a path.
func TestSpoolRead(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	draft := &letter.Draft{Time: time.Now(), Subject: "to the postmaster", Text: []byte("something\x1b[2J is wrong\n"), Attachments: []letter.Attachment{
		{Name: "../../trace.log", Size: 5, Data: strings.NewReader("trace")},
	}}
	sendTo(t, d, "postmaster@"+cmtptest.Domain, draft)
	const id = "0000000000000001"
	if list := site.Must(t, "", "spool", "list", "--operator"); !strings.HasPrefix(list, id+" ") {
		t.Errorf("the operator's mailbox holds %q", list)
	}
	saved := filepath.Join(site.Dir, "saved", "here")
	out := site.Must(t, "", "spool", "read", id, "--save", saved)
	for _, want := range []string{"claims to be from stranger@example.net, unproven", "to the postmaster", " is wrong"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q does not show %q", out, want)
		}
	}
	clean(t, "what is shown", out)
	files := entries(t, saved)
	equal(t, "files saved", len(files), 1)
	if b, err := os.ReadFile(filepath.Join(saved, files[0].Name())); err != nil || string(b) != "trace" {
		t.Errorf("%s holds %q, %v", files[0].Name(), b, err)
	}
	d.Stop(t)
}

// sendTo sends a letter as a client does, sealed to the key that the server names.
func sendTo(t *testing.T, d *cmtptest.Daemon, to string, draft *letter.Draft) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	addr, err := address.Parse(to)
	must(err)
	from, err := address.Parse("stranger@example.net")
	must(err)
	c, err := (&client.Dialer{}).Connect(t.Context(), d.Shared[0])
	must(err)
	defer c.Close()
	server, err := c.ServerKey()
	must(err)
	key, err := c.Key(addr.Account.String(), addr.Domain.String(), server)
	must(err)
	m, err := draft.Seal(from, addr, key)
	must(err)
	must(c.Send(m.Header, nil, m.Body, m.Attachments, server))
}
