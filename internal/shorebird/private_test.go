package shorebird_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
	"cmtpd/internal/letter"
	"cmtpd/internal/oprf"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/xzibit"
)

// cheap costs a test little.
var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

// privateHouse is a house that speaks CMTP 1, with users whose xzibits are of version 3.
func privateHouse(t *testing.T, users ...string) *house {
	t.Helper()
	h := newHouse(t, users...)
	h.Private, h.Invitations = true, map[string]string{}
	for i, u := range users {
		user := h.Users[u]
		user.Seed = [oprf.SeedSize]byte{byte(i + 1)}
		ring := &xzibit.Keyring{Server: h.Key.Public(), Keys: []xzibit.KeyPair{{Key: h.keys[u], Made: time.Unix(1, 0)}}}
		x, err := client.Seal(ring, parse(t, u), []byte(secret), cheap, evaluate(t, user.Seed))
		if err != nil {
			t.Fatal(err)
		}
		user.Xzibit = x
		h.Users[u] = user
	}
	return h
}

func evaluate(t *testing.T, seed [oprf.SeedSize]byte) func(oprf.Element) (oprf.Element, error) {
	key, err := oprf.KeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return func(e oprf.Element) (oprf.Element, error) { return key.Evaluate(e) }
}

func parse(t *testing.T, s string) address.Address {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// user returns what the server has of a user.
func (h *house) user(addr string) (u clienttest.User) {
	h.With(func() { u = h.Users[addr] })
	return u
}

// set changes what the server has of a user.
func (h *house) set(addr string, u clienttest.User) {
	h.With(func() { h.Users[addr] = u })
}

// invites makes an invitation, and returns its code.
func (h *house) invites(addr string) string {
	code := invite.New(h.Key.Public())
	h.With(func() { h.Invitations[addr] = code.Secret().Reveal() })
	return code.Reveal()
}

// device is a person who uses a house by default, and has the user's password ready.
func (h *house) device(t *testing.T, where string) *person {
	t.Helper()
	p := newPerson(t)
	p.app.Params = cheap
	p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where))
	p.passwordFile(secret + "\n" + secret + "\n")
	return p
}

// registered returns a device on which alice has just registered.
func (h *house) registered(t *testing.T, where string) (*person, shorebird.AccountReport) {
	t.Helper()
	p := h.device(t, where)
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin", "--json"})
	var v shorebird.AccountReport
	p.json(&v)
	return p, v
}

// recovered returns another device of alice's.
func (h *house) recovered(t *testing.T, where string) *person {
	t.Helper()
	p := h.device(t, where)
	p.want(ok, "", []string{"recover", alice})
	return p
}

// answers are the questions that a person is asked, and what is typed.
func (p *person) answers(typed map[string]string) {
	ask := func(_ context.Context, prompt string) ([]byte, error) {
		for _, q := range slices.Sorted(maps.Keys(typed)) {
			if strings.HasPrefix(prompt, q) {
				return []byte(typed[q]), nil
			}
		}
		p.t.Errorf("asked %q", prompt)
		return nil, os.ErrClosed
	}
	delete(p.env, "SHOREBIRD_PASSWORD_FILE")
	p.app.ReadPassword, p.app.ReadLine = ask, ask
}

// writes is a letter to alice, sealed to the key that she has.
func (p *person) letterFor(key string) string {
	p.t.Helper()
	m := written(p.t, &letter.Draft{Time: time.Unix(1e9, 0), Text: []byte("Hello Alice")}, alice, b64Key(p.t, key))
	return p.write(filepath.Join(p.dir, "letter"+fmt.Sprint(len(key), time.Now().UnixNano())), string(m))
}

func b64Key(t *testing.T, key string) crypt.PublicKey {
	t.Helper()
	var k []byte
	if err := json.Unmarshal([]byte(`"`+key+`"`), &k); err != nil || len(k) != crypt.PublicKeySize {
		t.Fatalf("%q is no key", key)
	}
	return crypt.PublicKey(k)
}

func (p *person) account() (v shorebird.AccountReport) { p.t.Helper(); p.json(&v); return v }

func TestRegister(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, v := h.registered(t, where)
	u := h.user(alice)
	if v.Address != alice || v.Key != b64(u.Key) || v.Trust != shorebird.Invited || v.Keys != 1 || !v.Recovery || v.Reset ||
		len(strings.Fields(v.RecoveryWords)) != 12 || v.Statements != 1 || v.Saved != p.data(alice+".xzibit") {
		t.Errorf("got %+v", v)
	}
	if version, err := xzibit.Version(u.Xzibit); version != 3 || err != nil {
		t.Errorf("the server has an xzibit of version %d, %v", version, err)
	}
	x, err := os.ReadFile(v.Saved)
	if err != nil {
		t.Fatal(err)
	}
	if ring, err := xzibit.Open(x, alice, []byte(secret)); err != nil || ring.Keys[0].Key.Public() != u.Key || ring.Server != h.Key.Public() {
		t.Errorf("the file opens without the server to %v, %v", ring, err)
	}
	p.files(alice+".lock", alice+".xzibit", "accounts.json", "accounts.lock", "contacts.json", "contacts.lock", "servers.json", "servers.lock")

	// It is an account that can be used.
	p.want(ok, "Hello Bob", []string{"send", bob})
	p.want(ok, "", []string{"open", p.letterFor(v.Key)}, "Hello Alice")
	auth := h.sent(cmtp.Auth)
	q := h.recovered(t, where)
	if n := h.sent(cmtp.Auth) - auth; n != 1 {
		t.Errorf("%d AUTH, so the attempt stays charged", n)
	}
	q.want(ok, "", []string{"open", q.letterFor(v.Key)}, "Hello Alice")
}

// Who has no configuration is told what to write into it, and that is enough. Who has one is told of another account.
func TestRegister_Introduced(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p := h.device(t, where)
	p.configure("")
	p.answers(nil)
	p.want(usage, "", []string{"register", alice}, "no server is known")
	p.passwordFile(secret + "\n")
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin", "--server", where}, "config.toml")
	_, lines, _ := strings.Cut(p.err.String(), "config.toml\n")
	p.configure(lines)
	p.want(ok, "Hello Bob", []string{"send", bob})

	q := newPerson(t)
	q.app.Params = cheap
	q.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", "dora@example.net"))
	q.passwordFile(secret + "\n")
	q.want(ok, "", []string{"recover", alice, "--server", where}, "config.toml")
	_, lines, _ = strings.Cut(q.err.String(), "config.toml\n")
	if want := fmt.Sprintf("[accounts.%q] server = %q", alice, where); strings.Join(strings.Fields(lines), " ") != want {
		t.Errorf("got %s, want %s", lines, want)
	}
	q.configure(lines)
	q.want(ok, "", []string{"recover", alice})
	if strings.Contains(q.err.String(), "config.toml") {
		t.Errorf("an account that is named is introduced: %s", q.err.String())
	}
}

// Sealing costs what it should unless a test says otherwise, on both sides.
func TestRegister_Cost(t *testing.T) {
	h := privateHouse(t)
	p := h.device(t, h.Start(t))
	p.app.Params = xzibit.Params{}
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin", "--no-recovery"})
	file, err := os.ReadFile(p.data(alice + ".xzibit"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range [][]byte{file, h.user(alice).Xzibit} {
		if got := [2]uint32{binary.BigEndian.Uint32(x[44:]), binary.BigEndian.Uint32(x[48:])}; got != [2]uint32{3, 64 << 10} {
			t.Errorf("an xzibit of version %d costs %v", x[3], got)
		}
	}
}

// files fails unless these are the files that the program has.
func (p *person) files(want ...string) {
	p.t.Helper()
	var got []string
	all, err := os.ReadDir(p.data(""))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range all {
		got = append(got, f.Name())
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			p.t.Errorf("%s has the mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Errorf("the files are %q, want %q", got, want)
	}
}

// Nothing secret is sent to a server that the code does not name.
func TestRegister_Code(t *testing.T) {
	h := privateHouse(t)
	where := h.Start(t)
	good := h.invites(alice)
	half := good[:len(good)/2] + invite.New(clienttest.Key(t).Public()).Reveal()[len(good)/2:]
	tests := map[string]struct {
		code string
		exit int
		word string
	}{
		"ServerHalf": {half, trust, "mistyped, or for another server"},
		"SecretHalf": {invite.New(h.Key.Public()).Reveal(), refused, "ask the server's operator for a new one"},
		"Short":      {good[:10], usage, "a code has 24"},
		"Empty":      {"", usage, "a code has 24"},
		"LowerCase":  {strings.ToLower(strings.ReplaceAll(good, "-", " ")) + "\n", ok, "registered"},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		tt := tests[name]
		t.Run(name, func(t *testing.T) {
			before := h.sent(cmtp.Enroll)
			p := h.device(t, where)
			p.want(tt.exit, tt.code, []string{"register", alice, "--code-stdin"}, tt.word)
			if sent := h.sent(cmtp.Enroll) - before; (sent > 0) != (tt.exit == ok || tt.exit == refused) {
				t.Errorf("%d ENROLL were sent", sent)
			}
			if tt.exit != ok {
				p.notSaved()
			}
			if s := p.out.String() + p.err.String(); len(tt.code) > 20 && strings.Contains(s, strings.TrimSpace(tt.code)) {
				t.Errorf("the code was printed: %s", s)
			}
		})
	}
}

// A script is told what is missing; it is never asked.
func TestRegister_NobodyToAsk(t *testing.T) {
	h := privateHouse(t)
	where := h.Start(t)
	p := h.device(t, where)
	p.want(password, "", []string{"register", alice}, "no terminal", "--code-stdin", "SHOREBIRD_CODE_FILE")
	p.env["SHOREBIRD_CODE_FILE"] = p.write(filepath.Join(p.dir, "code"), h.invites(alice))
	delete(p.env, "SHOREBIRD_PASSWORD_FILE")
	p.want(password, "", []string{"register", alice}, "no terminal", "--password-stdin", "SHOREBIRD_PASSWORD_FD")
	p.want(usage, "x", []string{"register", alice, "--code-stdin", "--password-stdin"}, "standard input")
	if n := h.sent(cmtp.Register); n > 0 {
		t.Errorf("%d REGISTER were sent", n)
	}
	p.want(ok, secret, []string{"register", alice, "--password-stdin", "--no-recovery"}, "recovery key", "none")
	if u := h.user(alice); len(u.Copy) > 0 {
		t.Error("there is a recovery copy")
	}
}

// Standard input is a letter's text for send, so it has no flag to be told of.
func TestSend_NobodyToAsk(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	delete(p.env, "SHOREBIRD_PASSWORD_FILE")
	p.want(password, "x", []string{"send", bob}, "no terminal", "SHOREBIRD_PASSWORD_FILE", "SHOREBIRD_PASSWORD_FD")
	if strings.Contains(p.err.String(), "--password-stdin") {
		t.Errorf("it names a flag that send has not: %s", p.err.String())
	}
	p.want(password, "", []string{"recover", alice, "--words"}, "--words-stdin")
}

// Who slips at a new password is asked again, and what counts is what was typed twice.
func TestRegister_Slips(t *testing.T) {
	h := privateHouse(t)
	p := h.device(t, h.Start(t))
	p.answers(map[string]string{"The code": h.invites(alice)})
	typed := []string{"one", "other", "two", "too", "three", "three"}
	p.app.ReadPassword = func(_ context.Context, prompt string) ([]byte, error) {
		answer := typed[0]
		typed = typed[1:]
		return []byte(answer), nil
	}
	p.want(ok, "", []string{"register", alice, "--no-recovery"}, "registered")
	if len(typed) > 0 || p.ring("three") == nil {
		t.Errorf("%q were not asked for", typed)
	}
}

func TestRegister_Terminal(t *testing.T) {
	h := privateHouse(t)
	where := h.Start(t)
	p := h.device(t, where)
	p.app.ErrIsTerminal = true
	code, wrong := h.invites(alice), 0
	line := func(_ context.Context, prompt string) ([]byte, error) {
		var n int
		if _, err := fmt.Sscanf(prompt, "Word %d: ", &n); err != nil {
			return []byte(code), nil
		}
		if wrong > 0 {
			wrong--
			return []byte("mistake"), nil
		}
		words := p.err.String()
		_, rest, _ := strings.Cut(words[strings.Index(words, "on paper"):], fmt.Sprintf(" %d ", n))
		return []byte(strings.ToUpper(strings.Fields(rest)[0])), nil
	}
	p.answers(map[string]string{"New password for " + alice: "a new one", "Once more": "another one"})
	p.app.ReadLine = line
	p.want(failure, "", []string{"register", alice}, "the two passwords differ")
	if n := strings.Count(p.err.String(), "type it anew"); n != 2 {
		t.Errorf("it was asked for anew %d times", n)
	}
	p.answers(map[string]string{"New password for " + alice: "a new one", "Once more": "a new one"})
	p.app.ReadLine, wrong = line, 3
	p.want(failure, "", []string{"register", alice}, "not confirmed", "--no-recovery")
	if n := h.sent(cmtp.Register); n > 0 {
		t.Errorf("%d REGISTER were sent", n)
	}
	wrong = 2
	p.want(ok, "", []string{"register", alice}, "That is another word", "registered")
	shown, _, _ := strings.Cut(p.err.String(), "1 ")
	for line := range strings.Lines(shown) {
		if len(strings.TrimSuffix(line, "\n")) > 79 {
			t.Errorf("this is broken by a terminal: %q", line)
		}
	}
}

// Whose code is refused was asked for nothing, and was shown no words.
func TestRegister_CodeFirst(t *testing.T) {
	h := privateHouse(t)
	p := h.device(t, h.Start(t))
	p.answers(nil)
	p.want(refused, invite.New(h.Key.Public()).Reveal(), []string{"register", alice, "--code-stdin"}, "ask the server's operator for a new one")
	if strings.Contains(p.err.String(), "recovery key") {
		t.Errorf("words were shown: %s", p.err.String())
	}
}

// Words that were shown for nothing are not kept as if they opened something; nor are
// those called worthless that the server may have taken a copy for.
func TestRegister_Worthless(t *testing.T) {
	const says = "the words above count for nothing"
	h := privateHouse(t)
	where := h.Start(t)
	for name, change := range map[string]func(){
		"CodeUsed": func() { delete(h.Invitations, alice) },
		"Exists":   func() { h.Users[alice] = clienttest.User{Key: clienttest.Key(t).Public()} },
	} {
		t.Run(name, func(t *testing.T) {
			p := h.device(t, where)
			code := h.invites(alice)
			p.app.ErrIsTerminal = true
			p.app.ReadLine = func(_ context.Context, prompt string) ([]byte, error) {
				var n int
				if _, err := fmt.Sscanf(prompt, "Word %d: ", &n); err != nil {
					return nil, err
				}
				h.With(change)
				_, rest, _ := strings.Cut(p.err.String(), "on paper")
				_, rest, _ = strings.Cut(rest, fmt.Sprintf(" %d ", n))
				return []byte(strings.Fields(rest)[0]), nil
			}
			if got := p.run(code, "register", alice, "--code-stdin"); got == ok || !strings.Contains(p.err.String(), says) {
				t.Errorf("it ended with %d: %s", got, p.err.String())
			}
		})
	}
	t.Run("NoAnswer", func(t *testing.T) {
		h := privateHouse(t)
		h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
			if cmd.Verb == cmtp.Register {
				return true, io.EOF
			}
			return false, nil
		}
		p := h.device(t, h.Start(t))
		if got := p.run(h.invites(alice), "register", alice, "--code-stdin"); got == ok || strings.Contains(p.err.String(), says) ||
			!strings.Contains(p.err.String(), "It is not known") {
			t.Errorf("it ended with %d: %s", got, p.err.String())
		}
	})
}

// An account that exists is reset, which everybody is told.
func TestRegister_Reset(t *testing.T) {
	h := privateHouse(t)
	where := h.Start(t)
	p, before := h.registered(t, where)
	carols := h.device(t, where)
	carols.configure(fmt.Sprintf("account = %q\nserver = %q\n", carol, where))
	carols.want(ok, "", []string{"keys", alice}, "key 1 of the account")

	q := h.device(t, where)
	q.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin"}, "mail that is sealed to the old ones can be read only where these are kept")
	carols.want(trust, "", []string{"send", alice, "--from", "carol@example.net"}, "the key was reset", "--accept-new-key", "nothing was sent")
	carols.want(trust, "", []string{"keys", alice}, "the key was reset")
	carols.want(ok, "", []string{"keys", alice, "--accept-new-key"}, before.Fingerprint, h.user(alice).Key.String(), "because you said so", "was reset 1 times")
	carols.want(ok, "", []string{"keys", alice}, "key 2 of the account")

	// The old device does not go on as if nothing had happened, and keeps its keys.
	for _, command := range [][]string{{"send", alice}, {"rotate"}, {"keys", alice}} {
		p.want(trust, "x", command, "the key was reset", "Your account was given new keys", "shorebird recover "+alice, "tell the server's operator")
		if strings.Contains(p.err.String(), "--accept-new-key") {
			t.Errorf("the owner is sent to the owner: %s", p.err.String())
		}
	}
	p.want(ok, "", []string{"keys", alice, "--accept-new-key"})
	p.want(trust, "x", []string{"send", alice}, "does not follow from the one on this machine", "shorebird recover "+alice)
	p.want(ok, "", []string{"recover", alice}, "Other keys of "+alice)
	kept, _ := filepath.Glob(p.data(alice + ".xzibit.*"))
	if len(kept) != 1 {
		t.Fatalf("kept %q", kept)
	}
	x, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	if ring, err := xzibit.Open(x, alice, []byte(secret)); err != nil || b64(ring.Keys[0].Key.Public()) != before.Key {
		t.Errorf("the old keys are lost: %v", err)
	}
}

func TestRegister_NoCMTP1(t *testing.T) {
	h := newHouse(t, bob)
	p := h.device(t, h.Start(t))
	p.want(failure, invite.New(h.Key.Public()).Reveal(), []string{"register", alice, "--code-stdin"}, "does not speak CMTP 1", "Nothing was sent")
}

// Another recovery key takes the place of the one before, and nothing else does.
func TestPasswd_NewRecovery(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, before := h.registered(t, where)
	words := func(list string, code int, says string) {
		t.Helper()
		h.device(t, where).want(code, list, []string{"recover", alice, "--words-stdin"}, says)
	}
	p.want(ok, "", []string{"passwd"})
	p.want(ok, "", []string{"rotate"})
	words(before.RecoveryWords, ok, "recovered")

	p.want(ok, "", []string{"passwd", "--new-recovery", "--json"})
	v := p.account()
	if !v.Recovery || len(strings.Fields(v.RecoveryWords)) != 12 || v.RecoveryWords == before.RecoveryWords {
		t.Fatalf("got %+v", v)
	}
	words(before.RecoveryWords, password, "not this account's recovery key")
	words(v.RecoveryWords, ok, "recovered")
	p.want(usage, "", []string{"passwd", "--new-recovery", "--no-recovery"}, "new-recovery")
}

// Who was robbed is told all that there is to do.
func TestPasswd_Help(t *testing.T) {
	newPerson(t).want(ok, "", []string{"passwd", "--help"}, "shorebird rotate", "--new-recovery", "operator", "resets the account")
	newPerson(t).want(ok, "", []string{"rotate", "--help"}, "shorebird passwd")
}
