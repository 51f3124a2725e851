package main_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/identity"
	"cmtpd/internal/letter"
	"cmtpd/internal/xzibit"
)

// TestServe_KeyRotation changes the server's identity twice at once and then the spool's key. What
// the daemon signs is signed by the key that it has now and no other, whoever asked before; the
// spool is one proven chain; and mail to the former keys can be read.
func TestServe_KeyRotation(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "alice")
	first := showKeys(t, site)
	equal(t, "former keys at first", len(first.Former), 0)
	d := site.Start(t)
	before := checkSigned(t, d)
	if r := site.Run(t, "", "key", "rotate", "--now"); r.Status != 1 || !strings.Contains(r.Err, "stop cmtpd") {
		t.Fatalf("beside the daemon: %+v", r)
	}
	if after := checkSigned(t, d); after != before {
		t.Fatal("a refused rotation has changed the server's key")
	}
	d.Stop(t)

	site.Must(t, "", "key", "rotate", "--now")
	printed := site.Must(t, "", "key", "rotate", "--now")
	keys := showKeys(t, site)
	equal(t, "former keys", len(keys.Former), 2)
	if !strings.Contains(printed, keys.Identity.Fingerprint) || strings.Contains(printed, before.String()) {
		t.Errorf("rotate printed\n%s", printed)
	}
	if r := site.Run(t, "", "spool", "verify"); r.Status != 1 || !strings.Contains(r.Err, "start it, and verify then") ||
		strings.Contains(r.Out, "DAMAGED") {
		t.Errorf("verify before the daemon has seen the new key: %+v", r)
	}

	d = site.Start(t)
	now := checkSigned(t, d)
	if now.String() != keys.Identity.Fingerprint || now == before {
		t.Errorf("the daemon's key is %v", now)
	}
	checkNotSigned(t, d, before)
	site.Must(t, "", "spool", "verify")
	equal(t, "letters that the server can read", readOwn(t, site), 3)
	checkHome(t, site, d, before, now)
	d.Stop(t)

	site.Must(t, "", "key", "rotate", "--spool")
	d = site.Start(t)
	d.Stop(t)
	site.Must(t, "", "spool", "verify")
	if last := showKeys(t, site); last.Spool.Key == first.Spool.Key || last.Identity != keys.Identity {
		t.Errorf("after rotate --spool: %+v", last)
	}
}

func showKeys(t *testing.T, site *cmtptest.Site) identity.KeysView {
	t.Helper()
	if _, err := os.Stat(site.Data + "/spool.key"); err != nil { // a user came before the first start
		site.Start(t).Stop(t)
	}
	v := decode[identity.KeysView](t, site.Must(t, "", "key", "show", "--json"))
	text := site.Must(t, "", "key", "show")
	for _, k := range append(v.Former, v.Identity, *v.Spool) {
		if !strings.Contains(text, k.Fingerprint) {
			t.Errorf("key show does not show %s:\n%s", k.Fingerprint, text)
		}
		if info, err := os.Stat(k.File); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", k.File, info, err)
		}
	}
	return v
}

// checkSigned has the daemon sign all that it signs: its key, a user's, a xzibit, and SUCCESS for
// a letter to itself. It returns the key by which all of it is signed.
func checkSigned(t *testing.T, d *cmtptest.Daemon) crypt.PublicKey {
	t.Helper()
	c, err := new(client.Dialer).Connect(t.Context(), d.Shared[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := c.ServerKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Key("alice", cmtptest.Domain, server); err != nil {
		t.Errorf("KEYREQUEST: %v", err)
	}
	if _, err := c.Login("alice@"+cmtptest.Domain, server); err != nil {
		t.Errorf("LOGIN: %v", err)
	}
	stranger, err := address.Parse("stranger@example.net")
	if err != nil {
		t.Fatal(err)
	}
	postmaster, err := address.Parse("postmaster@" + cmtptest.Domain)
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&letter.Draft{Time: time.Now(), Subject: "to the server", Text: []byte("hello")}).Seal(stranger, postmaster, server)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(m.Header, nil, m.Body, m.Attachments, server); err != nil {
		t.Errorf("MAIL: %v", err)
	}
	return server
}

// checkNotSigned expects that nothing is signed by a former key any more.
func checkNotSigned(t *testing.T, d *cmtptest.Daemon, former crypt.PublicKey) {
	t.Helper()
	for what, ask := range map[string]func(*client.Conn) error{
		"KEYREQUEST": func(c *client.Conn) error { _, err := c.Key("alice", cmtptest.Domain, former); return err },
		"LOGIN":      func(c *client.Conn) error { _, err := c.Login("alice@"+cmtptest.Domain, former); return err },
		"MAIL": func(c *client.Conn) error {
			l := &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: 1, Length: 100}}}
			return c.Send(l.Header(), nil, l.Parts[0], nil, former)
		},
	} {
		c, err := new(client.Dialer).Connect(t.Context(), d.Shared[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(c); !errors.Is(err, client.ErrSignature) {
			t.Errorf("%s under the former key: %v", what, err)
		}
		c.Close()
	}
}

// readOwn reads all letters to the server itself and returns how many there are.
func readOwn(t *testing.T, site *cmtptest.Site) int {
	t.Helper()
	all := decode[[]admin.MessageView](t, site.Must(t, "", "spool", "list", "--operator", "--json"))
	for _, m := range all {
		if text := site.Must(t, "", "spool", "read", m.ID); !strings.Contains(text, "hello") {
			t.Errorf("message %s reads\n%s", m.ID, text)
		}
	}
	return len(all)
}

// checkHome expects a keyring that was sealed under the former key to name it as its home, until
// its password is changed.
func checkHome(t *testing.T, site *cmtptest.Site, d *cmtptest.Daemon, former, now crypt.PublicKey) {
	t.Helper()
	const alice = "alice@" + cmtptest.Domain
	home := func() crypt.PublicKey {
		c, err := new(client.Dialer).Connect(t.Context(), d.Shared[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sealed, err := c.Login(alice, now)
		if err != nil {
			t.Fatal(err)
		}
		ring, err := xzibit.Open(sealed, alice, []byte(cmtptest.Password))
		if err != nil {
			t.Fatal(err)
		}
		return ring.Server
	}
	equal(t, "the home of alice's keys", home(), former)
	site.Must(t, cmtptest.Password+"\n"+cmtptest.Password+"\n", "user", "passwd", alice, "--password-stdin")
	equal(t, "the home of alice's keys after passwd", home(), now)
}

// A former key that is missing keeps the daemon from the spool, with word of what to do.
func TestServe_KeyRotation_Lost(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.Start(t).Stop(t)
	site.Must(t, "", "key", "rotate", "--now")
	former := showKeys(t, site).Former[0].File
	kept, err := os.ReadFile(former)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(former); err != nil {
		t.Fatal(err)
	}
	if r := site.Run(t, "", "serve"); r.Status != 1 || !strings.Contains(r.Err, former) || !strings.Contains(r.Err, "belongs to another identity key") {
		t.Errorf("without the former key: %+v", r)
	}
	if err := os.WriteFile(former, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	site.Start(t).Stop(t)
	if err := os.Remove(former); err != nil { // the spool has the change now
		t.Fatal(err)
	}
	site.Start(t).Stop(t)
	site.Must(t, "", "spool", "verify")
}
