package shorebird_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

// reader returns a person who has recovered the keys of a user.
func (h *house) reader(t *testing.T, user string) *person {
	t.Helper()
	p := newPerson(t)
	if _, err := os.Stat(p.dir); err != nil {
		t.Fatal(err)
	}
	p.want(ok, secret, []string{"recover", user, "--server", h.Start(t), "--password-stdin"})
	p.types(secret)
	return p
}

// written returns the message of a draft.
func written(t *testing.T, d *letter.Draft, to string, key crypt.PublicKey) []byte {
	t.Helper()
	parse := func(s string) address.Address {
		a, err := address.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	m, err := d.Seal(parse(alice), parse(to), key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, data string) letter.Attachment {
	return letter.Attachment{Name: name, Size: int64(len(data)), Data: strings.NewReader(data)}
}

func TestOpen(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	d := &letter.Draft{Time: time.Unix(1e9, 0), Subject: "Grüße", ReplyTo: carol, CC: []string{"dave@example.net"}, Text: []byte("Hello Bob,\n"),
		Attachments: []letter.Attachment{file("plan.txt", "the plan"), file("plan.txt", "another")}}
	m := written(t, d, "bob+tag@example.org", h.keys[bob].Public())
	path := p.write(filepath.Join(p.dir, "message"), string(m))

	p.want(ok, "", []string{"open", path}, "claims to be from "+alice+", unproven", "bob+tag@example.org", "Grüße", carol, "dave@example.net",
		"1. plan.txt, 8 bytes\n", "2. plan.txt, 7 bytes\n", "\n\nHello Bob,\n", "Sep 2001")

	save := filepath.Join(p.dir, "new", "saved")
	p.want(ok, "", []string{"open", path, "--save", save}, "saved as plan.txt", "saved as plan (2).txt")
	for name, want := range map[string]string{"plan.txt": "the plan", "plan (2).txt": "another"} {
		if got, err := os.ReadFile(filepath.Join(save, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}

	p.want(ok, string(m), []string{"open", "-", "--json"})
	var got shorebird.OpenReport
	p.json(&got)
	if got.From != alice || got.Proof != "unproven" || got.ProofText == "" || got.ProofKey != "" || got.To != "bob+tag@example.org" || !got.Sealed || got.Subject != d.Subject ||
		got.Text != string(d.Text) || !got.Time.Equal(d.Time) || len(got.CC) != 1 || len(got.Attachments) != 2 || got.Attachments[0].Size != 8 {
		t.Errorf("got %+v", got)
	}
}

// The message that comes on standard input leaves nothing behind.
func TestOpen_StandardInput(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	tmp := filepath.Join(p.dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	m := written(t, &letter.Draft{Time: time.Unix(1, 0), Text: []byte("Hello")}, bob, h.keys[bob].Public())
	p.want(ok, string(m), []string{"open", "-"}, "Hello\n")
	p.want(failure, string(m[:40]), []string{"open", "-"})
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// hostile is a letter whose writer tries everything in every field.
func hostile(t *testing.T, key crypt.PublicKey) []byte {
	t.Helper()
	const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202egpj.exe\u2066\nFrom: boss\r\x08\x7f"
	seal := func(plain []byte) cmtp.Part {
		b, err := crypt.Seal(nil, plain, key)
		if err != nil {
			t.Fatal(err)
		}
		return part(b)
	}
	body := cmtp.Body{Subject: evil, ReplyTo: evil, CC: []string{evil}, Text: []byte(evil + "\nDate: never\n")}
	plain, err := body.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "bob", DestinationDomain: "example.org", SourceAccount: evil, SourceDomain: "example.org"}
	var m bytes.Buffer
	err = cmtp.WriteMessage(&m, h, []byte(evil+"\x00"), seal(plain), []cmtp.Part{seal([]byte("../../" + evil + "\x00data"))})
	if err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

type part []byte

func (p part) Size() int64 { return int64(len(p)) }
func (p part) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

func TestOpen_Hostile(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	path := p.write(filepath.Join(p.dir, "message"), string(hostile(t, h.keys[bob].Public())))
	save := filepath.Join(p.dir, "saved")
	for _, args := range [][]string{{"open", path}, {"open", path, "--save", save}, {"open", path, "--json"}} {
		p.want(ok, "", args, "unproven")
		for _, r := range p.out.String() + p.err.String() {
			if r != '\n' && r != '\t' && !letter.Visible(r) {
				t.Errorf("%q lets %U reach the terminal", args, r)
			}
		}
	}
	var got shorebird.OpenReport
	p.json(&got)
	if !strings.HasPrefix(got.Subject, "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e") {
		t.Errorf("JSON is not exact: %q", got.Subject)
	}
	p.want(ok, "", []string{"open", path})
	head, _, _ := strings.Cut(p.out.String(), "\n\n")
	if n := strings.Count(head, "\n"); n != 7 { // From, Proof, To, Date, Subject, Reply to, Copies, Attachment
		t.Errorf("the writer added lines to the head:\n%s", head)
	}
	saved, err := os.ReadDir(save)
	if err != nil || len(saved) != 1 {
		t.Errorf("saved %v, %v", saved, err)
	}
}

func TestOpen_Errors(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	d := &letter.Draft{Time: time.Unix(1, 0), Text: []byte("top secret"), Attachments: []letter.Attachment{file("a", "data")}}
	good := written(t, d, bob, h.keys[bob].Public())
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	tests := map[string]struct {
		message []byte
		typed   string
		args    []string
		code    int
		word    string
	}{
		"WrongPassword":   {good, "wrong", nil, password, "wrong password"},
		"EmptyPassword":   {good, "", nil, password, "the password is empty"},
		"AnotherKey":      {written(t, d, bob, clienttest.Key(t).Public()), secret, nil, failure, "none of the keys opens"},
		"Altered":         {altered, secret, nil, failure, "attachment 1 of 1"},
		"CutShort":        {good[:len(good)-1], secret, nil, failure, "not one whole message"},
		"LongerThanItIs":  {append(bytes.Clone(good), 0), secret, nil, failure, "not one whole message"},
		"NoMessage":       {[]byte("From: alice\n\nHello\n"), secret, nil, failure, "not one whole message"},
		"NotMine":         {written(t, d, carol, h.keys[bob].Public()), secret, nil, failure, "shorebird recover " + carol},
		"NoSuchAccount":   {good, secret, []string{"--account", carol}, failure, "shorebird recover " + carol},
		"BadAccount":      {good, secret, []string{"--account", "bob"}, usage, "--account"},
		"SavedInNoFolder": {good, secret, []string{"--save", "/dev/null/x"}, failure, "directory for attachments"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.types(tt.typed)
			path := p.write(filepath.Join(t.TempDir(), "message"), string(tt.message))
			p.want(tt.code, "", append([]string{"open", path}, tt.args...), tt.word)
			if name != "SavedInNoFolder" && strings.Contains(p.out.String(), "secret") {
				t.Errorf("a part was shown:\n%s", p.out.String())
			}
		})
	}
	p.t = t
	p.want(failure, "", []string{"open", filepath.Join(p.dir, "not here")}, "no such file")
	p.want(failure, "", []string{"open", p.dir}, "not a regular file")
}

// Mail to an alias, or to the server itself, is opened with the account's keys.
func TestOpen_Alias(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	d := &letter.Draft{Time: time.Unix(1, 0), Text: []byte("Hello")}
	path := p.write(filepath.Join(p.dir, "message"), string(written(t, d, "postmaster@example.org", h.keys[bob].Public())))
	p.want(failure, "", []string{"open", path}, "shorebird recover postmaster@example.org", "--account")
	p.want(ok, "", []string{"open", path, "--account", bob}, "Hello")
	p.configure("account = \"" + bob + "\"")
	p.want(ok, "", []string{"open", path}, "Hello")

	var m bytes.Buffer
	box, err := crypt.Seal(nil, []byte("\x00\x00\x00\x01\x00\x00\x00\x00To the server"), h.keys[bob].Public())
	if err != nil {
		t.Fatal(err)
	}
	head := cmtp.Header{System: cmtp.SystemSealed, DestinationDomain: "example.org"}
	if err := cmtp.WriteMessage(&m, head, nil, part(box), nil); err != nil {
		t.Fatal(err)
	}
	path = p.write(filepath.Join(p.dir, "message"), m.String())
	p.want(ok, "", []string{"open", path}, "To the server", "does not say who it is from")
	p.configure("")
	p.want(usage, "", []string{"open", path}, "--account ADDRESS")
}

// A letter to keys that others have taken the place of is opened with them, under whatever
// password they are.
func TestOpen_Aside(t *testing.T) {
	h := privateHouse(t)
	p, before := h.registered(t, h.Start(t))
	old := p.letterFor(before.Key)
	p.passwordFile("another one")
	p.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin", "--no-recovery"}, "were on this machine; they are kept")
	kept, _ := filepath.Glob(p.data(alice + ".xzibit.2*"))
	if len(kept) != 1 {
		t.Fatalf("kept %q", kept)
	}
	p.want(failure, "", []string{"open", old}, "none of the keys opens", kept[0], "under another password")
	p.answers(map[string]string{"Password of " + alice + ": ": "another one", "Password of " + alice + ", as it was for": secret})
	p.want(ok, "", []string{"open", old}, "Hello Alice", "older keys, which are in "+kept[0])
	p.answers(map[string]string{"Password of " + alice: "another one"})
	p.want(failure, "", []string{"open", old}, "none of the keys opens", kept[0]+" do not open")
	p.want(ok, "", []string{"open", p.letterFor(b64(h.user(alice).Key))}, "Hello Alice")

	// The newest 16 are tried, of uploads that were cut short too, and what is damaged is
	// passed over.
	x, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	p.write(p.data(alice+".xzibit.20280101T000000Z"), "damaged")
	for n := range 14 {
		p.write(p.data(fmt.Sprintf("%s.xzibit.202802%02dT000000Z", alice, n+1)), string(seal(t, alice, crypt.PublicKey{}, clienttest.Key(t))))
	}
	if err := os.Rename(kept[0], p.data(alice+".xzibit.pending.20270101T000000Z")); err != nil {
		t.Fatal(err)
	}
	p.answers(map[string]string{"Password of " + alice + ": ": "another one", "Password of " + alice + ", as it was for": secret})
	p.want(ok, "", []string{"open", old}, "Hello Alice", "20280101T000000Z do not open")
	p.write(p.data(alice+".xzibit.20270201T000000Z"), string(seal(t, alice, crypt.PublicKey{}, clienttest.Key(t))))
	p.want(failure, "", []string{"open", old}, "none of the keys opens")
	p.write(p.data(alice+".xzibit.20270301T000000Z"), string(x))
	p.want(ok, "", []string{"open", old}, "Hello Alice")
}

// The report of an error carries nothing of a letter into a log.
func TestOpen_JSONError(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	p.types("wrong")
	path := p.write(filepath.Join(p.dir, "message"), string(hostile(t, h.keys[bob].Public())))
	p.want(password, "", []string{"open", path, "--json"})
	var e struct{ Code int }
	if err := json.Unmarshal(p.err.Bytes(), &e); err != nil || e.Code != password || p.out.Len() > 0 {
		t.Errorf("%v: %s%s", err, p.out.String(), p.err.String())
	}
}

// A letter that is longer than the screen is shown by the pager; nothing else is, and where there is none, or it cannot be run, all
// of it is shown at once.
func TestOpen_Pager(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	var paged [][]byte
	var broken error
	p.app.Page = func(text []byte) error {
		paged = append(paged, bytes.Clone(text))
		return broken
	}
	text := strings.Repeat("line\n", 20)
	path := p.write(p.dir+"/letter", string(written(t, &letter.Draft{Time: time.Unix(1e9, 0), Text: []byte(text)}, bob, h.keys[bob].Public())))
	p.app.OutIsTerminal = true
	lines := 0
	p.app.Height = func() int { return lines }
	p.want(ok, "", []string{"open", path}, text)
	height := strings.Count(p.out.String(), "\n")
	for name, tt := range map[string]struct {
		height int
		args   []string
		broken error
		pages  bool
		prints bool
	}{
		"Longer": {height, nil, nil, true, false}, "AsLong": {height + 1, nil, nil, false, true}, "NoPager": {height, []string{"--no-pager"}, nil, false, true},
		"JSON": {height, []string{"--json"}, nil, false, true}, "Ended": {height, nil, exits(t, 1), true, false}, "NotFound": {height, nil, exits(t, 127), true, true},
		"NoShell": {height, nil, errors.New("no shell"), true, true},
	} {
		paged, broken, lines = nil, tt.broken, tt.height
		p.want(ok, "", append([]string{"open", path}, tt.args...))
		if len(paged) > 0 != tt.pages || (p.out.Len() > 0) != tt.prints || tt.pages && !strings.Contains(string(paged[0]), text) {
			t.Errorf("%s: %d paged, and %q", name, len(paged), p.out.String())
		}
	}
	p.app.OutIsTerminal, paged, lines = false, nil, 1
	p.want(ok, "", []string{"open", path}, text)
	if len(paged) > 0 {
		t.Error("a file was paged")
	}
}

// exits is how a program ends with a status.
func exits(t *testing.T, status int) error {
	err := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", status)).Run()
	if err == nil {
		t.Fatal("it ended well")
	}
	return err
}
