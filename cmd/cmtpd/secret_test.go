package main_test

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
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
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/xzibit"
)

const (
	secretSubject = "the subject that nobody may log"
	secretText    = "The text that only Alice may read."
	otherPassword = "another password, just as secret"
)

// TestServe_Secrets plays a whole life of a server at log.level = "debug": users,
// keys, a letter, mistakes; and then of two, whose users write to each other (secrets_test.go).
// Neither their logs, nor what the commands print, nor what who watches is shown, nor a
// file on their disks shows a password, a secret key or what a letter says.
func TestServe_Secrets(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"log.level": `"debug"`, "limits.accept_plaintext": "true", "limits.accept_unproven_source": "true"})
	site.AddUsers(t, "alice", "bob")
	d := site.Start(t)
	var printed strings.Builder
	run := func(stdin string, args ...string) {
		r := site.Run(t, stdin, args...)
		printed.WriteString(r.Out + r.Err)
	}
	const alice = "alice@" + cmtptest.Domain
	run(cmtptest.Password+"\n", "user", "add", alice, "--password-stdin")
	run(otherPassword+"\n"+cmtptest.Password+"\n", "user", "passwd", alice, "--password-stdin")
	run(cmtptest.Password+"\n"+otherPassword+"\n", "user", "passwd", "bob@"+cmtptest.Domain, "--password-stdin")
	for _, args := range [][]string{{"user", "show", alice}, {"user", "show", alice, "--json"}, {"user", "list"}} {
		run("", args...)
	}

	const carol = "carol@" + cmtptest.Domain
	run(cmtptest.Password+"\n", "user", "add", carol, "--password-stdin")
	run(cmtptest.Password+"\n"+otherPassword+"\n", "user", "passwd", carol, "--password-stdin")
	run("", "user", "show", carol, "--json")
	invited := site.Run(t, "", "user", "invite", "dave@"+cmtptest.Domain) // prints its code, and nothing else does
	run("", "user", "invite", "--reset", "dave@"+cmtptest.Domain)
	run("", "user", "invitations", "--json")
	code := strings.TrimSpace(invited.Out)

	keys := correspond(t, d)
	for _, args := range [][]string{{"spool", "list"}, {"spool", "list", "--json"}, {"spool", "show", "0000000000000001"}, {"spool", "verify"}} {
		run("", args...)
	}
	d.Line(t, "message stored") // so the log is at work
	d.Stop(t)

	onDisk := neverOnDisk(code, keys)
	logged := map[string][]byte{"plaintext": []byte(plaintext)}
	for _, file := range []string{"server.key", "spool.key"} {
		key, err := keyfile.Load(filepath.Join(site.Data, file))
		if err != nil {
			t.Fatal(err)
		}
		seed := forms(key.Bytes()[:32])
		for form, text := range seed {
			logged[file+form] = text
		}
		// What is searched for is what there is to find.
		if b, err := os.ReadFile(filepath.Join(site.Data, file)); !bytes.Contains(b, seed[" in base64, shifted by 0"]) {
			t.Errorf("%s does not hold its own key, %v", file, err)
		}
	}
	maps.Copy(logged, onDisk)
	for form, text := range forms(seedOf(t, site.Data, carol)) {
		logged["a seed"+form] = text
	}
	search(t, "the log", []byte(d.Log()), logged)
	search(t, "what was printed", []byte(printed.String()), logged)
	searchFiles(t, site.Data, onDisk)
	newLife(t).search(t)
}

// neverOnDisk are the secrets that no file of a server may hold, by what they are: the code of an invitation, and
// users' keys.
func neverOnDisk(code string, keys map[string][]byte) map[string][]byte {
	all := map[string][]byte{"a password": []byte(cmtptest.Password), "the other password": []byte(otherPassword),
		"the subject": []byte(secretSubject), "the text": []byte(secretText),
		"a code": []byte(code), "a code's secret": []byte(strings.ReplaceAll(code, "-", "")[:12])}
	for name, secret := range keys {
		for form, text := range forms(secret[:32]) { // a seed; the rest is public
			all[name+form] = text
		}
	}
	return all
}

// seedOf returns the server's secret for opening a user's keys.
func seedOf(t *testing.T, data, addr string) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "accounts", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var a struct {
			Address string
			Seed    []byte
		}
		if err := json.Unmarshal(b, &a); err != nil {
			t.Fatal(err)
		}
		if a.Address == addr && len(a.Seed) == 32 {
			return a.Seed
		}
	}
	t.Fatalf("%s has no seed", addr)
	return nil
}

// plaintext is the text of a message of crypto system 0. It lies on disk, as its
// operator has allowed, but in no log.
const plaintext = "A text that was never encrypted."

// correspond recovers keys as a client does, seals a letter to alice, and sends
// it, and one in the clear. It returns the secret keys that it has held.
func correspond(t *testing.T, d *cmtptest.Daemon) map[string][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := new(client.Dialer).Connect(ctx, d.Shared[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := c.ServerKey()
	if err != nil {
		t.Fatal(err)
	}
	alice, err := address.Parse("alice@" + cmtptest.Domain)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Login(alice.String(), server)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := xzibit.Open(sealed, alice.String(), []byte(cmtptest.Password))
	if err != nil {
		t.Fatal(err)
	}
	key := ring.Keys[0].Key
	draft := letter.Draft{Time: time.Now(), Subject: secretSubject, Text: []byte(secretText)}
	m, err := draft.Seal(alice, alice, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(m.Header, nil, m.Body, m.Attachments, server); err != nil {
		t.Fatal(err)
	}
	w := greeted(t, d.Shared[0])
	h := cmtp.Header{System: cmtp.SystemPlain, LogLength: 1, BodyLength: uint64(len(plaintext)),
		DestinationAccount: "alice", DestinationDomain: cmtptest.Domain, SourceAccount: "bob", SourceDomain: cmtptest.Domain}
	w.send(t, "MAIL\x00"+string(h.Append(nil))+"\x00"+plaintext)
	w.success(t)
	w.send(t, "LOGIN\x00nobody\x00")
	w.failure(t)
	return map[string][]byte{"alice's key": key.Bytes()}
}

// forms are the ways in which bytes get into text.
func forms(secret []byte) map[string][]byte {
	// Base64 of a part of a longer text looks different at each of three offsets;
	// what does not depend on its neighbours is found by its middle.
	f := map[string][]byte{"": secret, " in hex": []byte(hex.EncodeToString(secret)), " in HEX": []byte(strings.ToUpper(hex.EncodeToString(secret)))}
	for name, base := range map[string]*base32.Encoding{"base32": base32.StdEncoding, "base32 of numbers first": base32.HexEncoding} {
		for shift := range 5 { // of which the ends depend on what is beside them, too
			text := base.WithPadding(base32.NoPadding).EncodeToString(append(make([]byte, shift), secret...))
			f[fmt.Sprintf(" in %s, shifted by %d", name, shift)] = []byte(text[8 : len(text)-8])
		}
	}
	for shift := range 3 {
		url := base64.RawURLEncoding.EncodeToString(append(make([]byte, shift), secret...))
		f[fmt.Sprintf(" in base64 for URLs, shifted by %d", shift)] = []byte(url[4 : len(url)-4])
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		f[" in base64, shifted by "+string(rune('0'+shift))] = []byte(text[4 : len(text)-4])
	}
	return f
}

func search(t *testing.T, where string, b []byte, secrets map[string][]byte) {
	t.Helper()
	if len(b) == 0 {
		t.Errorf("%s is empty", where)
	}
	for name, s := range secrets {
		if bytes.Contains(b, s) {
			t.Errorf("%s shows %s", where, name)
		}
	}
}

func searchFiles(t *testing.T, dir string, secrets map[string][]byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasSuffix(e.Name(), "lock") || e.Name() == "readers" {
			return err
		}
		b, err := os.ReadFile(path)
		search(t, path, b, secrets)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
