package shorebird_test

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// cut makes the server hang up on an upload, which takes place or not.
func (h *house) cut(t *testing.T, verb cmtp.Verb) (again func(takesPlace bool)) {
	forms := make(chan []byte, 1)
	var armed atomic.Bool
	armed.Store(true)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != verb || !armed.Swap(false) {
			return false, nil
		}
		form, err := cmtp.ReadForm(c.In)
		forms <- form
		return true, errors.Join(err, io.EOF)
	}
	return func(takesPlace bool) {
		form := <-forms
		if !takesPlace {
			return
		}
		u := h.user(alice)
		if verb == cmtp.Register {
			f, err := cmtp.ParseRegisterForm(form)
			if err != nil {
				t.Fatal(err)
			}
			u.Xzibit, u.Copy, u.Key = f.Xzibit, f.Copy, f.Statement.Key
			u.History = []crypt.SignedKey{{KeyStatement: f.Statement}}
		} else {
			f, err := cmtp.ParseUploadForm(form)
			if err != nil {
				t.Fatal(err)
			}
			u.Xzibit, u.Copy = f.Xzibit, f.Copy
			if f.Statement != nil {
				u.Key = f.Statement.Key
				u.History = append(u.History, crypt.SignedKey{KeyStatement: *f.Statement, Old: f.OldSignature})
			}
		}
		h.set(alice, u)
	}
}

// The answer to an upload does not come: no key is lost, whatever the server did.
func TestUpload_CutShort(t *testing.T) {
	for _, verb := range []cmtp.Verb{cmtp.Register, cmtp.Upload} {
		for _, takesPlace := range []bool{true, false} {
			for _, command := range []string{"rotate", "passwd"} {
				t.Run(verb.String()+command+map[bool]string{true: "Taken", false: "Lost"}[takesPlace], func(t *testing.T) {
					uploadCutShort(t, verb, takesPlace, command)
				})
			}
		}
	}
}

// What broke off before anything was sent, and before it was noted, is cleared away, with its key kept: else its file would have the
// password asked for at each command, whatever the desktop has.
func TestUpload_CutBeforeSent(t *testing.T) {
	h := privateHouse(t, bob)
	p, v := h.registered(t, h.Start(t))
	p.app.Desktop = newDesktop()
	unsent := clienttest.Key(t)
	p.write(p.data(alice+".xzibit.pending"), string(seal(t, alice, h.Key.Public(), unsent)))
	p.want(ok, "x", []string{"send", bob})
	if left, _ := filepath.Glob(p.data("*.pending*")); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
	if ring := p.ring(secret); len(ring.Keys) != 2 || b64(ring.Keys[0].Key.Public()) != v.Key || ring.Keys[1].Key.Public() != unsent.Public() {
		t.Errorf("%d keys are left", len(ring.Keys))
	}
	p.mute()
	p.want(ok, "x", []string{"send", bob})
}

func uploadCutShort(t *testing.T, verb cmtp.Verb, takesPlace bool, command string) {
	h := privateHouse(t, bob)
	after := h.cut(t, verb)
	where := h.Start(t)
	p := h.device(t, where)
	p.passwordFile(secret + "\n" + fresh + "\n")
	code := h.invites(alice)
	now := secret
	if verb == cmtp.Register {
		p.want(temporary, code, []string{"register", alice, "--code-stdin"}, "the next command finds out")
		after(takesPlace)
		if !takesPlace { // and so it is done again
			p.want(ok, code, []string{"register", alice, "--code-stdin"})
		}
	} else {
		p.want(ok, code, []string{"register", alice, "--code-stdin"})
		p.want(temporary, "", []string{command}, "the next command finds out")
		after(takesPlace)
		if takesPlace && command == "passwd" {
			now = fresh
		}
	}
	newest := h.user(alice).Key
	p.passwordFile(now)
	p.want(ok, "", []string{"open", p.letterFor(b64(newest))}, "Hello Alice") // before it is known, too
	p.want(ok, "x", []string{"send", bob})
	p.want(ok, "", []string{"open", p.letterFor(b64(newest))}, "Hello Alice")
	if left, _ := filepath.Glob(p.data("*.pending")); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
	p.want(ok, "x", []string{"send", bob})
	if strings.Contains(p.err.String(), "cut short") {
		t.Errorf("told twice: %s", p.err.String())
	}
	ring := p.ring(now)
	if find := ring.Keys[0].Key.Public(); find != newest {
		t.Errorf("the first key is not the newest")
	}
	p.passwordFile(now + "\n" + now + "\n")
	p.want(ok, "", []string{"rotate"})
}

// A key whose upload did not take place is kept all the same: the server may have been
// slow. Nothing that is fetched later drives it out.
func TestUpload_LostKeyIsKept(t *testing.T) {
	h := privateHouse(t, bob)
	after := h.cut(t, cmtp.Upload)
	where := h.Start(t)
	p, v := h.registered(t, where)
	q := h.recovered(t, where)
	p.want(temporary, "", []string{"rotate"})
	after(false)
	p.want(ok, "x", []string{"send", bob})
	ring := p.ring(secret)
	if len(ring.Keys) != 2 || b64(ring.Keys[0].Key.Public()) != v.Key {
		t.Fatalf("%d keys are kept", len(ring.Keys))
	}
	lost := b64(ring.Keys[1].Key.Public())
	q.want(ok, "", []string{"rotate"})
	p.want(ok, "x", []string{"send", bob}, "has a newer key")
	if ring := p.ring(secret); len(ring.Keys) != 3 || ring.Keys[0].Key.Public() != h.user(alice).Key {
		t.Errorf("%d keys are kept", len(ring.Keys))
	}
	p.want(ok, "", []string{"open", p.letterFor(lost)}, "Hello Alice")
}

// The desktop keyring does not hide what is pending.
func TestUpload_CutShortWithDesktop(t *testing.T) {
	h := privateHouse(t, bob)
	after := h.cut(t, cmtp.Upload)
	p := h.device(t, h.Start(t))
	p.app.Desktop = newDesktop()
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin"})
	p.want(temporary, "", []string{"rotate"})
	after(true)
	newest := b64(h.user(alice).Key)
	p.want(ok, "", []string{"open", p.letterFor(newest)}, "Hello Alice")
	p.want(ok, "x", []string{"send", bob}, "has taken place")
	p.want(ok, "x", []string{"send", bob})
	p.mute()
	p.want(ok, "", []string{"open", p.letterFor(newest)}, "Hello Alice")
}

// What the password does not open is kept aside.
func TestUpload_CutShortUnderAnotherPassword(t *testing.T) {
	h := privateHouse(t, bob)
	after := h.cut(t, cmtp.Upload)
	p, _ := h.registered(t, h.Start(t))
	p.passwordFile(secret + "\n" + fresh + "\n")
	p.want(temporary, "", []string{"passwd"})
	after(false)
	p.want(ok, "x", []string{"send", bob}, "did not take place", "they are kept in")
	kept, _ := filepath.Glob(p.data(alice + ".xzibit.pending.*"))
	if len(kept) != 1 {
		t.Errorf("kept %q", kept)
	}
}

// The old password is given although the upload took place: the keys are the same.
func TestUpload_TakenAndOldPassword(t *testing.T) {
	h := privateHouse(t, bob)
	after := h.cut(t, cmtp.Upload)
	p, _ := h.registered(t, h.Start(t))
	p.passwordFile(secret + "\n" + fresh + "\n")
	p.want(temporary, "", []string{"passwd"})
	after(true)
	p.want(ok, "x", []string{"send", bob}, "has taken place")
	p.ring(fresh)
}
