package main_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/terminal"
)

// A correspondent is alice of a server, with shorebird and keys on a machine of her own.
type correspondent struct {
	*world
	at   *realm
	home string
}

func (w *world) correspondent(at *realm) *correspondent {
	w.Helper()
	c := &correspondent{w, at, w.TempDir()}
	c.write("password", cmtptest.Password+"\n")
	c.run("", "recover", "alice@"+at.domain)
	return c
}

func (c *correspondent) write(name, text string) string {
	c.Helper()
	path := filepath.Join(c.home, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	return path
}

// run runs shorebird, which must succeed, and returns all that it says.
func (c *correspondent) run(stdin string, args ...string) string {
	c.Helper()
	status, out := c.try(stdin, nil, args...)
	if status != 0 {
		c.Fatalf("shorebird %q ended with %d:\n%s", args, status, out)
	}
	return out
}

// try runs shorebird with more in its environment, and returns its exit status and all that it says.
func (c *correspondent) try(stdin string, more map[string]string, args ...string) (status int, said string) {
	env := map[string]string{"HOME": c.home, "XDG_CONFIG_HOME": c.home + "/config", "XDG_DATA_HOME": c.home + "/data",
		"SHOREBIRD_NO_KEYRING": "1", "SHOREBIRD_PASSWORD_FILE": filepath.Join(c.home, "password")}
	maps.Copy(env, more)
	var out bytes.Buffer
	app := &shorebird.App{Terminal: terminal.Terminal{In: strings.NewReader(stdin), Out: &out, Err: &out},
		Getenv: func(name string) string { return env[name] }, Now: time.Now}
	status = app.Run(c.Context(), append(args, "--server", c.at.Shared[0]))
	return status, out.String()
}

// reads opens a letter that has come, and expects it to be shown with these words.
func (c *correspondent) reads(m listed, words ...string) {
	c.Helper()
	path := c.write(m.ID, c.at.Must(c, "", "spool", "export", m.ID))
	out := c.run("", "open", path, "--check", "--account", "alice@"+c.at.domain)
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.Errorf("the letter is shown without %q:\n%s", w, out)
		}
	}
}

// A person writes to another domain with shorebird: the key comes through the person's own
// server, which delivers the letter. Its reader is told that it was submitted with that
// person's key, also when the person has another one by then.
func TestFederation_Shorebird(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	writer, reader := w.correspondent(a), w.correspondent(b)
	if out := writer.run("hello\n", "send", "alice@b.example", "--from", "alice@a.example", "-s", "across"); !strings.Contains(out, "queued") {
		t.Errorf("send says %s", out)
	}
	b.await(w, "message stored", "alice@b.example")
	all := b.list(w)
	if len(all) != 1 || !strings.Contains(all[0].From, "origin=proven") {
		t.Fatalf("arrived: %+v", all)
	}
	if log := all[0].Log; len(log) != 3 || !crypt.IsSender(log[0]) || !crypt.IsReceived(log[1]) || !crypt.IsOrigin(log[2]) {
		t.Errorf("its log is %q", log)
	}
	writer.run("", "rotate", "alice@a.example")
	reader.reads(all[0], "submitted by alice@a.example: a key that it had until", "not who wrote it", "hello")
}

// signedAs returns a sender entry for a message, which has no log yet.
func signedAs(t *testing.T, m *letter.Message, key *crypt.PrivateKey) []byte {
	t.Helper()
	if err := m.Sign(time.Now(), key); err != nil {
		t.Fatal(err)
	}
	defer func() { m.Log = nil }()
	return m.Log
}

// A letter that shows another key's signature, or another letter's, is refused where it is
// submitted. When the server there lets it pass, and even vouches for it, the letter's reader
// is told.
func TestFederation_ForgedSender(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	reader, ch := w.correspondent(b), w.signIn(a)
	eve, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	ring, _, err := client.Unseal(ch, a.alice(), []byte(cmtptest.Password))
	if err != nil {
		t.Fatal(err)
	}
	own, key := ring.Keys[0].Key, w.keyOf(ch, b)
	seal := func(subject string) *letter.Message {
		t.Helper()
		m, err := (&letter.Draft{Time: time.Now(), Subject: subject, Text: []byte("hello")}).Seal(a.alice(), b.alice(), key)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	other, cut := seal("another"), seal("cut")
	entries := map[string][]byte{"cut": signedAs(t, other, own), "eve": signedAs(t, seal("eve"), eve)}

	for name, log := range entries {
		var refused *cmtp.StatusError
		_, err := ch.Send(cut.Header, log, cut.Body, cut.Attachments)
		if !errors.As(err, &refused) || refused.Status != cmtp.StatusBadMessage || !strings.Contains(refused.Reason, "sender entry") {
			t.Errorf("%s: submitting it: %v", name, err)
		}
	}

	hostile := w.impostor(a, b)
	forged := seal("by eve")
	hostile.inject(cut, entries["cut"])
	hostile.inject(forged, signedAs(t, forged, eve))
	honest := seal("by alice")
	hostile.inject(honest, signedAs(t, honest, own))
	hostile.inject(seal("by nobody"), nil)
	letters := b.awaitList(w, 4)
	reader.reads(letters[0], "WARNING", "FALSE", "claims to be from alice@a.example")
	reader.reads(letters[1], "as the server of a.example says", "a key that alice@a.example is not known to have")
	reader.reads(letters[2], "submitted by alice@a.example, whose key has signed for that")
	reader.reads(letters[3], "submitted by alice@a.example, as the server of a.example says")
}

// An impostor has the key of one domain's server, and speaks to another's in its place.
type impostor struct {
	*world
	key *crypt.PrivateKey
	ch  *client.Channel
}

func (w *world) impostor(as, to *realm) *impostor {
	w.Helper()
	key, err := keyfile.Load(filepath.Join(as.Data, "server.key"))
	if err != nil {
		w.Fatal(err)
	}
	d := client.Dialer{Timeout: time.Minute}
	_, ch, err := d.Open(w.Context(), to.Shared[0], true)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { ch.Close() })
	ch.Accept()
	if err := ch.AuthServer(as.alice().Domain, to.alice().Domain, key); err != nil {
		w.Fatal(err)
	}
	return &impostor{w, key, ch}
}

// inject delivers a letter with a log of the impostor's making, and vouches for it.
func (i *impostor) inject(m *letter.Message, log []byte) {
	i.Helper()
	digest, err := cmtp.WriteDigested(new(bytes.Buffer), m.Header, nil, m.Body, nil)
	if err != nil {
		i.Fatal(err)
	}
	source, err := address.Parse(m.Header.SourceAccount + "@" + m.Header.SourceDomain)
	if err != nil {
		i.Fatal(err)
	}
	o := crypt.NewOrigin(digest, source, crypt.UnixTimeOf(time.Now()), i.key)
	if _, err := i.ch.Send(m.Header, append(log, o.String()+"\x00"...), m.Body, m.Attachments); err != nil {
		i.Fatal(err)
	}
}
