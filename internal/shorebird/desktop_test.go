package shorebird_test

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zalando/go-keyring"
)

// A desktop is one that nobody has to log in to.
type desktop struct {
	mu      sync.Mutex
	entries map[string]string
	fails   error
	hangs   chan struct{} // nil: no
}

func newDesktop() *desktop { return &desktop{entries: map[string]string{}} }

func (d *desktop) begin() error {
	if d.hangs != nil {
		<-d.hangs
	}
	if d.fails != nil {
		return d.fails
	}
	d.mu.Lock()
	return nil
}

func (d *desktop) Get(service, user string) (string, error) {
	err := d.begin()
	if err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	s, found := d.entries[service+" "+user]
	if !found {
		return "", keyring.ErrNotFound
	}
	return s, nil
}

func (d *desktop) Set(service, user, secret string) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	d.entries[service+" "+user] = secret
	return nil
}

func (d *desktop) Delete(service, user string) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	delete(d.entries, service+" "+user)
	return nil
}

// mute takes the password away.
func (p *person) mute() { delete(p.env, "SHOREBIRD_PASSWORD_FILE") }

func TestDesktop(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	d := newDesktop()
	p := h.device(t, where)
	p.app.Desktop = d
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin", "--json"})
	v := p.account()
	if !v.Keyring || d.entries["shorebird "+alice] == "" {
		t.Fatalf("got %+v, %d entries", v, len(d.entries))
	}
	// No password is needed any more.
	p.mute()
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
	p.want(ok, "x", []string{"send", bob})
	// Unless the desktop keyring is not to be used, or has lost the entry.
	p.want(password, "x", []string{"send", bob, "--no-keyring"}, "no terminal")
	p.env["SHOREBIRD_NO_KEYRING"] = "1"
	p.want(password, "x", []string{"send", bob}, "no terminal")
	delete(p.env, "SHOREBIRD_NO_KEYRING")
	clear(d.entries)
	p.want(password, "x", []string{"send", bob}, "no terminal")
	p.passwordFile(secret)
	p.want(ok, "x", []string{"send", bob})
	p.mute()
	p.want(ok, "x", []string{"send", bob})
	for _, bad := range []string{"?", "AAAA", d.entries["shorebird "+alice][:80]} {
		d.entries["shorebird "+alice] = bad
		p.want(password, "x", []string{"send", bob}, "no terminal")
	}
}

// Whoever changes keys without the desktop keyring makes its entry worthless.
func TestDesktop_Stale(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	d := newDesktop()
	p := h.device(t, where)
	p.app.Desktop = d
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin"})
	p.want(ok, "", []string{"rotate", "--no-keyring", "--json"})
	v := p.account()
	if v.Keyring {
		t.Error("it says that the desktop has the keys")
	}
	p.mute()
	p.want(password, "", []string{"open", p.letterFor(v.Key)}, "no terminal")
	p.passwordFile(secret)
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
	p.mute()
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
}

// A desktop that fails or says nothing holds nobody up.
func TestDesktop_Broken(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, v := h.registered(t, where)
	p.app.Desktop = &desktop{fails: errors.New("no session")}
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
	if p.err.Len() > 0 {
		t.Errorf("a session without a keyring is told %q", p.err.String())
	}
	hangs := make(chan struct{})
	defer close(hangs)
	p.app.Desktop, p.app.DesktopWait = &desktop{hangs: hangs}, time.Millisecond
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "The desktop keyring is not used: it does not answer")
}

// descriptor returns the number of an open descriptor with text behind it.
func descriptor(t *testing.T, text string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	fd, err := syscall.Dup(int(r.Fd())) // the program closes it
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(fd)
}

func TestPassword_Descriptor(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	p.env["SHOREBIRD_PASSWORD_FD"] = descriptor(t, secret)
	p.want(usage, "x", []string{"send", bob}, "both set")
	p.mute()
	p.want(ok, "x", []string{"send", bob})
	p.env["SHOREBIRD_PASSWORD_FD"] = descriptor(t, secret+"\n"+fresh+"\n")
	p.want(ok, "", []string{"passwd"})
	p.ring(fresh)
	for _, fd := range []string{"0", "2", "-1", "x", "65536"} {
		p.env["SHOREBIRD_PASSWORD_FD"] = fd
		p.want(usage, "x", []string{"send", bob}, "not the number of a descriptor")
	}
	p.env["SHOREBIRD_PASSWORD_FD"] = "9999"
	p.want(failure, "x", []string{"send", bob}, "reading the password")
}
