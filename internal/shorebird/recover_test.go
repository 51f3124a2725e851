package shorebird_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/xzibit"
)

// types answers the question for a password.
func (p *person) types(answer string) {
	p.app.ReadPassword = func(context.Context, string) ([]byte, error) { return []byte(answer), nil }
}

func TestRecover(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	ways := map[string]func(p *person) (stdin string, flags []string){
		"Terminal":     func(p *person) (string, []string) { p.types(secret); return "", nil },
		"StandardIn":   func(*person) (string, []string) { return secret + "\n", []string{"--password-stdin"} },
		"SecondLine":   func(*person) (string, []string) { return secret + "\r\nother\n", []string{"--password-stdin"} },
		"WithoutLine":  func(*person) (string, []string) { return secret, []string{"--password-stdin"} },
		"PasswordFile": func(p *person) (string, []string) { p.passwordFile(secret + "\n"); return "", nil },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t)
			stdin, flags := way(p)
			p.want(ok, stdin, append([]string{"recover", bob, "--server", where}, flags...), h.keys[bob].Public().String(), "sealed under your password")
			file := p.data(bob + ".xzibit")
			got, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, h.Users[bob].Xzibit) {
				t.Errorf("saved %d bytes, %v", len(got), err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
}

func (p *person) passwordFile(text string) {
	p.t.Helper()
	p.env["SHOREBIRD_PASSWORD_FILE"] = p.write(filepath.Join(p.dir, "password"), text)
}

func TestRecover_JSON(t *testing.T) {
	h := newHouse(t)
	old, newest := clienttest.Key(t), clienttest.Key(t)
	h.Users[bob] = clienttest.User{Key: newest.Public(), Xzibit: seal(t, bob, crypt.PublicKey{}, newest, old)}
	p := newPerson(t)
	p.want(ok, secret, []string{"recover", "bob+tag@example.org", "--server", h.Start(t), "--password-stdin", "--json"})
	var got shorebird.RecoverReport
	p.json(&got)
	if got.Address != bob || got.Keys != 2 || got.Key != b64(newest.Public()) || got.Saved != p.data(bob+".xzibit") || got.Trust != shorebird.FirstContact {
		t.Errorf("got %+v", got)
	}
}

// notSaved fails when anything but what is known of servers was written.
func (p *person) notSaved() {
	p.t.Helper()
	if left, _ := filepath.Glob(p.data("*xzibit*")); len(left) > 0 {
		p.t.Errorf("saved %v", left)
	}
}

// The 2017 tools took an empty password from an empty file and went on.
func TestRecover_EmptyPasswordFromAFile(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	for _, text := range []string{"", "\n", "\r\n", "\n" + secret + "\n"} {
		p := newPerson(t)
		p.passwordFile(text)
		p.want(password, "", []string{"recover", bob, "--server", where}, "the password is empty")
		p.notSaved()
		p = newPerson(t)
		p.want(password, text, []string{"recover", bob, "--server", where, "--password-stdin"}, "the password is empty")
		p.types("")
		p.want(password, "", []string{"recover", bob, "--server", where}, "the password is empty")
		p.notSaved()
	}
}

func TestRecover_Password(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	long := strings.Repeat("x", 1024)
	tests := map[string]struct {
		stdin string
		code  int
		word  string
	}{
		"Wrong":    {"incorrect", password, "wrong password"},
		"Longest":  {long, password, "wrong password"},
		"TooLong":  {long + "x", usage, "longer than 1024 bytes"},
		"Trailing": {secret + " ", password, "wrong password"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t)
			p.want(tt.code, tt.stdin, []string{"recover", bob, "--server", where, "--password-stdin"}, tt.word)
			p.notSaved()
			if strings.Contains(p.out.String()+p.err.String(), tt.stdin) {
				t.Error("the password was printed")
			}
		})
	}
	t.Run("NobodyToAsk", func(t *testing.T) {
		p := newPerson(t)
		p.want(password, "", []string{"recover", bob, "--server", where}, "--password-stdin", "SHOREBIRD_PASSWORD_FILE")
		p.notSaved()
	})
	t.Run("NoSuchFile", func(t *testing.T) {
		p := newPerson(t)
		p.env["SHOREBIRD_PASSWORD_FILE"] = filepath.Join(p.dir, "not here")
		p.want(password, "", []string{"recover", bob, "--server", where}, "SHOREBIRD_PASSWORD_FILE", "not here")
	})
}

func TestRecover_HostileServers(t *testing.T) {
	mallory := clienttest.Key(t)
	tests := map[string]struct {
		change func(*house)
		code   int
		word   string
	}{
		"NamesAnotherKey": {func(h *house) {
			h.Users[bob] = clienttest.User{Key: mallory.Public(), Xzibit: h.Users[bob].Xzibit}
		}, trust, "a key that is not yours"},
		"NamesAnOldKey": {func(h *house) {
			h.Users[bob] = clienttest.User{Key: h.keys[bob].Public(), Xzibit: seal(t, bob, h.Key.Public(), clienttest.Key(t), h.keys[bob])}
		}, trust, "do not belong together"},
		"IsNotHome": {func(h *house) {
			h.Users[bob] = clienttest.User{Key: h.keys[bob].Public(), Xzibit: seal(t, bob, mallory.Public(), h.keys[bob])}
		}, trust, "not your server"},
		"GivesAnothersKeys": {func(h *house) {
			h.Users[bob] = clienttest.User{Key: h.keys[bob].Public(), Xzibit: seal(t, carol, h.Key.Public(), h.keys[bob])}
		}, password, "do not open"},
		"HugeXzibit": {func(h *house) {
			x := bytes.Clone(h.Users[bob].Xzibit)
			copy(x[36:], "\x7f\xff\xff\xff\xff\xff\xff\xff")
			h.Users[bob] = clienttest.User{Key: h.keys[bob].Public(), Xzibit: x}
		}, failure, "not well-formed sealed keys"},
		"CostlyXzibit": {func(h *house) {
			x := bytes.Clone(h.Users[bob].Xzibit)
			copy(x[48:], "\x7f\xff\xff\xff")
			h.Users[bob] = clienttest.User{Key: h.keys[bob].Public(), Xzibit: x}
		}, failure, "out of bounds"},
		"UnsignedXzibit": {func(h *house) {
			h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.Login {
					return false, nil
				}
				x := h.Users[bob].Xzibit
				return true, c.Reply(cmtp.AppendXzibit(nil, x, mallory.Sign(x)))
			}
		}, trust, "not signed by the server's key"},
		"RefusesLogin": {func(h *house) {
			h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.Login {
					return false, nil
				}
				return true, c.Word(cmtp.Failure)
			}
		}, refused, "the server refused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, bob)
			tt.change(h)
			p := newPerson(t)
			p.want(tt.code, secret, []string{"recover", bob, "--server", h.Start(t), "--password-stdin"}, tt.word)
			p.notSaved()
		})
	}
}

// Keys that are replaced may be the only ones that open old mail.
func TestRecover_KeepsOldKeys(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	args := []string{"recover", bob, "--server", where, "--password-stdin"}
	p.want(ok, secret, args)
	p.want(ok, secret, args)
	before := h.Users[bob].Xzibit
	if all, _ := filepath.Glob(p.data(bob + ".xzibit*")); len(all) != 1 {
		t.Errorf("the same keys are kept as %v", all)
	}
	k := clienttest.Key(t)
	h.Users[bob] = clienttest.User{Key: k.Public(), Xzibit: seal(t, bob, h.Key.Public(), k)}
	p.want(ok, secret, args, "Other keys of "+bob, ".xzibit.20270115T080000Z")
	old := p.data(bob + ".xzibit.20270115T080000Z")
	if got, err := os.ReadFile(old); err != nil || !bytes.Equal(got, before) {
		t.Errorf("the old keys are gone: %v", err)
	}
	if info, err := os.Stat(old); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the old keys' file: %v, %v", info, err)
	}
}

// Names are data: what an account is called means nothing to the file system.
func TestRecover_FileNames(t *testing.T) {
	names := map[string]string{
		"..@example.org":        "%2E.@example.org.xzibit",
		"-rf@example.org":       "%2Drf@example.org.xzibit",
		"gr\u00fcn@example.org": "gr%C3%BCn@example.org.xzibit",
		"a*?$(x)%41@a.example":  "a%2A%3F%24%28x%29%2541@a.example.xzibit",
	}
	for addr, file := range names {
		h := newHouse(t, addr)
		p := newPerson(t)
		p.want(ok, secret, []string{"recover", "--server", h.Start(t), "--password-stdin", "--", addr})
		if _, err := os.Stat(p.data(file)); err != nil {
			all, _ := filepath.Glob(p.data("*"))
			t.Errorf("%s: no file %s among %q", addr, file, all)
		}
	}
	long := strings.Repeat("ü", 100)
	h := newHouse(t, long+"@example.org", long+"@example.net")
	where := h.Start(t)
	p := newPerson(t)
	p.want(ok, secret, []string{"recover", "--server", where, "--password-stdin", long + "@example.org"})
	p.want(ok, secret, []string{"recover", "--server", where, "--password-stdin", long + "@example.net"})
	if all, _ := filepath.Glob(p.data("*.xzibit")); len(all) != 2 {
		t.Errorf("two long names are kept as %q", all)
	}
}

// Keys sealed in 2016 are recovered as they are; the vectors are libsodium's.
func TestRecover_Version1(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Xzibit struct {
			Good []struct{ Name, Password, Xzibit string } // in hex
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, v := range vectors.Xzibit.Good {
		x, pass := unhex(t, v.Xzibit), unhex(t, v.Password)
		ring, err := xzibit.Open(x, bob, pass)
		if err != nil {
			t.Fatal(err)
		}
		h := newHouse(t)
		h.Users[bob] = clienttest.User{Key: ring.Keys[0].Key.Public(), Xzibit: x}
		code, word := ok, ring.Keys[0].Key.Public().String()
		if len(pass) == 0 { // the C tool allowed it; we do not, and say so
			code, word = password, "the password is empty"
		}
		newPerson(t).want(code, string(pass)+"\n", []string{"recover", bob, "--server", h.Start(t), "--password-stdin"}, word)
		tests++
	}
	if tests < 2 {
		t.Errorf("only %d vectors", tests)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
