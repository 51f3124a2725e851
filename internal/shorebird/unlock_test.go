package shorebird_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/kernelring"
	"cmtpd/internal/shorebird"
)

// A kernel is one that forgets by the person's clock.
type kernel struct {
	now     func() time.Time
	entries map[string]lasting
	fails   error
}

type lasting struct {
	secret []byte
	until  time.Time
}

func (k *kernel) Get(name string) ([]byte, time.Time, error) {
	e, found := k.entries[name]
	switch {
	case k.fails != nil:
		return nil, time.Time{}, k.fails
	case !found || !k.now().Before(e.until):
		return nil, time.Time{}, kernelring.ErrNotFound
	}
	return bytes.Clone(e.secret), e.until, nil
}

func (k *kernel) Set(name string, secret []byte, until time.Time) error {
	if k.fails == nil {
		k.entries[name] = lasting{bytes.Clone(secret), until}
	}
	return k.fails
}

func (k *kernel) Delete(name string) error {
	if _, _, err := k.Get(name); err != nil {
		return err
	}
	delete(k.entries, name)
	return nil
}

// atConsole gives a person a kernel that keeps secrets, and a clock of their own.
func (p *person) atConsole() (k *kernel, now *time.Time) {
	at := p.app.Now()
	p.app.Now = func() time.Time { return at }
	k = &kernel{now: p.app.Now, entries: map[string]lasting{}}
	p.app.Kernel = k
	return k, &at
}

// unlocked returns until when the person's commands do without a password; the zero time if they do not.
func (p *person) unlocked() time.Time {
	p.t.Helper()
	p.want(ok, "", []string{"accounts", "--json"})
	var v shorebird.AccountsReport
	p.json(&v)
	return v.Accounts[0].Unlocked
}

func TestUnlock(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	k, now := p.atConsole()
	p.mute()
	p.want(password, "x", []string{"send", bob}, "no terminal")
	p.want(password, "", []string{"unlock"}, "no terminal")
	p.want(password, "wrong\n", []string{"unlock", "--password-stdin"})
	if len(k.entries) > 0 {
		t.Fatal("it is unlocked without the password")
	}
	p.want(ok, secret+"\n", []string{"unlock", "--password-stdin", "--json"})
	var v shorebird.UnlockReport
	if p.json(&v); v.Account != alice || !v.Until.Equal(now.Add(8*time.Hour)) {
		t.Errorf("got %+v", v)
	}
	for name, e := range k.entries {
		if bytes.Contains(e.secret, []byte(secret)) {
			t.Errorf("%s has the password", name)
		}
	}
	p.want(ok, "x", []string{"send", bob})
	p.want(ok, "", []string{"devices", alice}, "until "+v.Until.Local().Format("2 Jan 2006, 15:04"))
	if got := p.unlocked(); !got.Equal(v.Until) {
		t.Errorf("accounts says until %v", got)
	}
	p.want(ok, "", []string{"accounts"}, "; unlocked until ")
	// What needs the password itself asks for it, and other keyrings are left alone where that is wanted.
	p.want(password, "", []string{"rotate"}, "no terminal")
	p.want(password, "x", []string{"send", bob, "--no-keyring"}, "no terminal")
	p.env["SHOREBIRD_NO_KEYRING"] = "1"
	p.want(password, "x", []string{"send", bob}, "no terminal")
	p.want(usage, secret, []string{"unlock", "--password-stdin"}, "no keyring is to be used")
	delete(p.env, "SHOREBIRD_NO_KEYRING")
	// A desktop that fails does not shut the kernel out.
	p.app.Desktop = &desktop{fails: errors.New("no session")}
	p.want(ok, "x", []string{"send", bob})
	p.app.Desktop = nil

	*now = v.Until.Add(-time.Second)
	p.want(ok, "x", []string{"send", bob})
	*now = v.Until
	p.want(password, "x", []string{"send", bob}, "no terminal")
	if got := p.unlocked(); !got.IsZero() {
		t.Errorf("accounts says until %v, which is over", got)
	}
	p.types(secret)
	p.want(ok, "", []string{"unlock", alice}, alice+" is unlocked until ")
	p.app.ReadPassword = nil
	p.want(ok, "x", []string{"send", bob})
	p.want(ok, "", []string{"lock", "--json"})
	var locked shorebird.LockReport
	if p.json(&locked); len(locked.Locked) != 1 || locked.Locked[0] != alice || len(k.entries) > 0 {
		t.Errorf("got %+v, %d entries", locked, len(k.entries))
	}
	p.want(password, "x", []string{"send", bob}, "no terminal")
	p.want(ok, "", []string{"lock", alice}, "nothing was unlocked")
}

func TestUnlock_For(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	_, now := p.atConsole()
	for _, d := range []string{"59s", "24h0m1s", "0", "-1h"} {
		p.want(usage, "", []string{"unlock", "--for", d}, "a minute at least, and for a day at most")
	}
	p.want(usage, "", []string{"unlock", "--for", "long"}, "is no time such as")
	for _, d := range []time.Duration{time.Minute, 24 * time.Hour} {
		p.want(ok, "", []string{"unlock", "--for", d.String()})
		if got := p.unlocked(); !got.Equal(now.Add(d)) {
			t.Errorf("for %v: until %v", d, got)
		}
	}
}

// Another key and another password leave the account unlocked, until the same time; and keys that another device has changed are not
// used before the password was given.
func TestUnlock_Changed(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, _ := h.registered(t, where)
	q := h.recovered(t, where)
	_, now := p.atConsole()
	p.want(ok, "", []string{"unlock"})
	until := now.Add(8 * time.Hour)
	*now = now.Add(time.Hour)
	stays := func(what string) {
		t.Helper()
		if got := p.unlocked(); !got.Equal(until) {
			t.Errorf("after %s it is unlocked until %v, want %v", what, got, until)
		}
		p.mute()
		p.want(ok, "x", []string{"send", bob})
	}
	p.want(ok, "", []string{"rotate", "--json"})
	v := p.account()
	stays("rotate")
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
	p.passwordFile(secret + "\n" + fresh + "\n")
	p.want(ok, "", []string{"passwd"})
	stays("passwd")
	q.passwordFile(fresh)
	q.want(ok, "", []string{"rotate"})
	p.want(password, "x", []string{"send", bob}, "no terminal")
	p.passwordFile(fresh)
	p.want(ok, "x", []string{"send", bob}, "another device has changed it")
	stays("another device's rotate")
	p.passwordFile(fresh)
	p.want(ok, "", []string{"rotate", "--no-keyring"})
	p.mute()
	p.want(password, "x", []string{"send", bob}, "no terminal")
	if got := p.unlocked(); !got.IsZero() {
		t.Errorf("old keys are unlocked until %v", got)
	}
}

// Where the kernel keeps nothing nobody is asked for a password in vain, and nothing else is troubled.
func TestUnlock_Unavailable(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	p.types("nobody is asked")
	for name, k := range map[string]shorebird.Kernel{
		"None":    nil,
		"Refused": &kernel{now: p.app.Now, fails: fmt.Errorf("refused: %w", kernelring.ErrUnavailable)},
	} {
		t.Run(name, func(t *testing.T) {
			p.t, p.app.Kernel = t, k
			p.want(failure, "", []string{"unlock"}, "the kernel keeps no secrets here", "SHOREBIRD_PASSWORD_FILE")
			p.want(failure, "", []string{"lock"}, "the kernel keeps no secrets here")
			if p.want(ok, "x", []string{"send", bob}); strings.Contains(p.err.String(), "kernel") {
				t.Errorf("send is told %q", p.err.String())
			}
			p.want(ok, "", []string{"rotate"})
		})
	}
}

// Keys of which the server has not said whether it took them are not half unlocked.
func TestUnlock_CutShort(t *testing.T) {
	for _, takesPlace := range []bool{true, false} {
		t.Run(fmt.Sprint(takesPlace), func(t *testing.T) {
			h := privateHouse(t, bob)
			after := h.cut(t, cmtp.Upload)
			p, _ := h.registered(t, h.Start(t))
			p.atConsole()
			p.want(ok, "", []string{"unlock"})
			p.want(temporary, "", []string{"rotate"}, "the next command finds out")
			after(takesPlace)
			p.want(failure, "", []string{"unlock"}, "cut short", "shorebird sync")
			p.mute()
			p.want(password, "x", []string{"send", bob}, "no terminal")
			p.passwordFile(secret)
			p.want(ok, "x", []string{"send", bob}) // as sync does
			if got := p.unlocked(); got.IsZero() != takesPlace {
				t.Errorf("it is unlocked until %v", got)
			}
			p.want(ok, "", []string{"unlock"})
			p.mute()
			p.want(ok, "x", []string{"send", bob})
		})
	}
}

// What the kernel has that is not ours, or not whole, opens nothing.
func TestUnlock_Damaged(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	k, _ := p.atConsole()
	p.want(failure, "", []string{"unlock", carol}, "shorebird recover")
	p.want(ok, "", []string{"unlock"})
	p.mute()
	for name, e := range k.entries {
		for _, secret := range [][]byte{nil, e.secret[:31], e.secret[:len(e.secret)-1]} {
			k.entries[name] = lasting{secret, e.until}
			p.want(password, "x", []string{"send", bob}, "no terminal")
		}
	}
}
