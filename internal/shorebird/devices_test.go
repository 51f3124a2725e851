package shorebird_test

import (
	"fmt"
	"testing"

	"cmtpd/internal/shorebird"
)

func TestDevices(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	p.want(ok, "", []string{"rotate"})
	h.Wait()
	asked := len(h.Verbs())
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "x", []string{"send", bob})
	p.want(ok, "", []string{"devices", "--json"})
	var v shorebird.DeviceReport
	p.json(&v)
	ring := p.ring(secret)
	if v.Account != alice || len(v.Keys) != 2 || v.Keys[0].Fingerprint != ring.Keys[0].Key.Public().String() || !v.Keys[0].Made.Equal(p.app.Now()) ||
		v.Keyring || !v.Recovery || v.Outbox != 1 || v.Drafts != 0 || v.Bytes == 0 || !v.Synced.IsZero() || v.Mailbox != p.data(alice+".mailbox") {
		t.Errorf("got %+v", v)
	}
	p.want(ok, "", []string{"devices", alice}, "older key", "made 2027-01-15, 0 days ago", "never in step", "desktop keyring")
	p.want(failure, "", []string{"devices", carol}, "shorebird recover")
	p.want(ok, "", []string{"devices", "--help"}, "cannot tell of your other devices")
	if n := len(h.Verbs()); n != asked {
		t.Errorf("somebody was asked %d times", n-asked)
	}
}

// Each account has its own server, and a letter goes by the one of the account that it is from.
func TestAccounts(t *testing.T) {
	const ann = "ann@example.net"
	one, two := privateHouse(t, alice, bob), privateHouse(t, ann, "ben@example.net")
	f := one.abroad(t)
	f.server = two.Key
	at, there := one.Start(t), two.Start(t)
	p := one.device(t, at)
	config := fmt.Sprintf("account = %q\nserver = %q\n[accounts.%q]\nserver = %q\n", alice, at, "Ann@Example.NET", there)
	p.configure(config)
	p.want(ok, "", []string{"accounts"}, ann, "no keys are here; server "+there, alice, "used by default")
	p.want(ok, "", []string{"recover", alice})
	p.want(ok, "", []string{"recover", ann})
	p.want(ok, "", []string{"accounts", "--json"})
	var v shorebird.AccountsReport
	p.json(&v)
	if len(v.Accounts) != 2 || v.Accounts[0] != (shorebird.AccountLine{Account: alice, Default: true, Server: at, Keys: true}) ||
		v.Accounts[1] != (shorebird.AccountLine{Account: ann, Server: there, Keys: true}) {
		t.Errorf("got %+v", v)
	}
	p.want(ok, "x", []string{"send", "ben@example.net", "--from", ann}, "sent to ben@example.net")
	if len(two.Messages()) != 1 || len(f.mail) != 0 {
		t.Errorf("%d letters came to her own server", len(two.Messages()))
	}
	p.want(ok, "x", []string{"send", dora}, "queued for "+dora) // of example.net, by alice's server
	if len(f.mail) != 1 || len(two.Messages()) != 1 {
		t.Errorf("%d were queued with her own server, %d came there directly", len(f.mail), len(two.Messages())-1)
	}
	for text, word := range map[string]string{
		config + "[accounts.\"bob@example.net\"]\nserver = \"localhost:1\"\n": "has one server, and here are two",
		"[accounts.\"bob\"]\nserver = \"localhost:1\"\n":                      "no @",
		"[accounts.\"" + bob + "\"]\nserver = \"localhost\"\n":                "HOST:PORT",
		"[accounts.\"" + bob + "\"]\nplace = \"localhost:1\"\n":               "unknown key accounts",
	} {
		p.configure(text)
		p.want(failure, "", []string{"accounts"}, word)
	}
}
