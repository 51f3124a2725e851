package shorebird_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/shorebird"
)

func TestKeys(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	fingerprint := h.keys[bob].Public().String()
	p.want(ok, "", []string{"keys", bob, "--server", where}, b64(h.keys[bob].Public()), fingerprint, h.Key.Public().String(), "first contact")
	p.want(ok, "", []string{"keys", bob, "--server", where}, "remembered")

	p.want(ok, "", []string{"keys", "BOB@Example.org", "--server", where, "--json"})
	var got shorebird.KeysReport
	p.json(&got)
	want := shorebird.KeysReport{
		Address: bob, Key: b64(h.keys[bob].Public()), Fingerprint: fingerprint, Server: where,
		ServerKey: b64(h.Key.Public()), ServerFingerprint: h.Key.Public().String(), Trust: shorebird.Remembered,
		Protocol: "CMTP 0.01",
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if info, err := os.Stat(p.data("servers.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("servers.json: %v, %v", info, err)
	}
}

func TestKeys_ChangedServerKey(t *testing.T) {
	h, other := newHouse(t, bob), newHouse(t, bob)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", h.Start(t)})
	impostor := other.Start(t)
	for _, args := range [][]string{
		{"keys", bob}, {"send", bob, "--from", alice}, {"recover", bob, "--password-stdin"},
	} {
		p.want(trust, secret, append(args, "--server", impostor), "the server's key has changed",
			h.Key.Public().String(), other.Key.Public().String(), "--forget example.org")
	}
	if n := other.sent(cmtp.Mail) + other.sent(cmtp.Login); n > 0 {
		t.Errorf("%d commands went to the impostor", n)
	}
	p.want(ok, "", []string{"keys", "--forget", "example.org"}, "forgotten", h.Key.Public().String())
	p.want(failure, "", []string{"keys", "--forget", "example.org"}, "no key is remembered")
	// What is known of bob outlives it.
	p.want(trust, "", []string{"keys", bob, "--server", impostor}, "the one before did not sign for it", "--accept-new-key")
	p.want(ok, "", []string{"keys", bob, "--server", impostor, "--accept-new-key"}, h.keys[bob].Public().String(), other.keys[bob].Public().String())
	p.want(ok, "", []string{"keys", bob, "--server", impostor}, "remembered")
}

func TestKeys_ForgetJSON(t *testing.T) {
	h := newHouse(t, bob)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", h.Start(t)})
	p.want(ok, "", []string{"keys", "--forget", "example.org", "--json"})
	var got shorebird.ForgetReport
	p.json(&got)
	if got.Domain != "example.org" || got.Key != b64(h.Key.Public()) || !got.FirstSeen.Equal(p.app.Now()) {
		t.Errorf("got %+v", got)
	}
}

// A server that knows nobody of a domain teaches nothing about that domain.
func TestKeys_RefusalIsNotRemembered(t *testing.T) {
	h := newHouse(t, bob)
	p := newPerson(t)
	p.want(refused, "", []string{"keys", "bob@example.net", "--server", h.Start(t)}, "the server refused", "does not say why")
	if b, err := os.ReadFile(p.data("servers.json")); err == nil && strings.Contains(string(b), "example.net") {
		t.Errorf("remembered: %s", b)
	}
}

func TestKeys_DamagedMemory(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", where})
	p.write(p.data("servers.json"), "{")
	p.want(failure, "", []string{"keys", bob, "--server", where}, "servers.json", "backup")
}

// Many that meet servers for the first time at once all remember theirs.
func TestKeys_AtOnce(t *testing.T) {
	users := []string{"a@a.example", "b@b.example", "c@c.example", "d@d.example", "e@e.example", "f@f.example"}
	where := newHouse(t, users...).Start(t)
	first := newPerson(t)
	var all sync.WaitGroup
	for _, u := range users {
		p := newPerson(t)
		p.env = first.env
		all.Go(func() {
			if code := p.run("", "keys", u, "--server", where); code != ok {
				t.Errorf("%s: %d, %s", u, code, p.err.String())
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(first.data("servers.json"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]any{}
	if err := json.Unmarshal(b, &known); err != nil || len(known) != len(users) {
		t.Errorf("%d of %d are remembered, %v", len(known), len(users), err)
	}
}

func TestKeys_HostileServers(t *testing.T) {
	stranger := clienttest.Key(t)
	bobs := clienttest.Key(t).Public()
	answer := func(h *house, b func() []byte) {
		h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
			if len(cmd.User()) == 0 {
				return false, nil
			}
			c.Reply(b())
			return true, io.EOF
		}
	}
	tests := map[string]struct {
		change func(*house)
		code   int
		word   string
	}{
		"WrongSignature": {func(h *house) {
			answer(h, func() []byte { return cmtp.AppendKey(nil, bobs, stranger.Sign(bobs[:])) })
		}, trust, "Nothing was sent"},
		"SignedFailureOfAnother": {func(h *house) {
			answer(h, func() []byte {
				return cmtp.AppendWord(nil, cmtp.Failure, stranger.Sign([]byte(cmtp.Failure)))
			})
		}, trust, "not signed"},
		"KeyOfSmallOrder": {func(h *house) {
			answer(h, func() []byte { k := [32]byte{1}; return cmtp.AppendKey(nil, k, h.Key.Sign(k[:])) })
		}, trust, "nothing can be sealed to"},
		"VanishesMidReply": {func(h *house) { answer(h, func() []byte { return make([]byte, 3) }) }, temporary, "Try again later"},
		"Babbles":          {func(h *house) { answer(h, func() []byte { return make([]byte, 4000) }) }, failure, "does not keep to CMTP"},
		"OnlySMTP":         {func(h *house) { h.Greeting = "220 mx ESMTP Postfix\r\n" }, failure, "ordinary mail server"},
		"EndlessGreeting":  {func(h *house) { h.Greeting = strings.Repeat("220-CMTP\r\n", 5000) }, failure, "more than 100 lines"},
		"Busy":             {func(h *house) { h.Greeting = "421 4.3.2 busy\r\n" }, temporary, "Try again later"},
		"EscapesInGreeting": {func(h *house) { h.Greeting = "554 \x1b]0;owned\x07\r\n" },
			failure, `\x1b]0;owned\a`},
		"ManyLines": {func(h *house) { h.Greeting = "220-mx CMTP\r\n220-welcome\r\n220 ready\r\n" }, ok, bob},
		"Silence":   {func(h *house) { h.Greeting = "" }, ok, bob},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, bob)
			tt.change(h)
			p := newPerson(t)
			p.app.GreetingWait = 200 * time.Millisecond
			p.want(tt.code, "", []string{"keys", bob, "--server", h.Start(t)}, tt.word)
			if strings.Contains(p.out.String()+p.err.String(), "\x1b") {
				t.Error("an escape sequence reached the terminal")
			}
		})
	}
}

func TestKeys_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	where := l.Addr().String()
	l.Close()
	newPerson(t).want(temporary, "", []string{"keys", bob, "--server", where}, "Try again later")
}

func TestKeys_Timeout(t *testing.T) {
	h := newHouse(t, bob)
	h.Answer = func(*clienttest.Conn, cmtp.Command) (bool, error) { <-t.Context().Done(); return true, io.EOF }
	newPerson(t).want(temporary, "", []string{"keys", bob, "--server", h.Start(t), "--timeout", "100ms"}, "Nothing came in time")
}

func TestKeys_Interrupted(t *testing.T) {
	h := newHouse(t, bob)
	ctx, cancel := context.WithCancel(t.Context())
	h.Answer = func(*clienttest.Conn, cmtp.Command) (bool, error) {
		cancel()
		<-t.Context().Done()
		return true, io.EOF
	}
	p := newPerson(t)
	if code := p.runContext(ctx, strings.NewReader(""), "keys", bob, "--server", h.Start(t)); code != interrupted {
		t.Errorf("ended with %d: %s", code, p.err.String())
	}
}
