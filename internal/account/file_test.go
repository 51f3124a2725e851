package account_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// copyBefore returns a directory with the committed files of a release of before CMTP 1.
func copyBefore(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "accounts")
	if err := os.CopyFS(dir, os.DirFS("testdata/before")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Accounts of before CMTP 1 have a history of one statement, the same ever after: clients
// remember it.
func TestOpen_BeforeStatements(t *testing.T) {
	dir := copyBefore(t)
	// By hand: label, domain, account, system, key, 2026-01-02 02:04:05 UTC, no flags, no predecessor.
	want := fmt.Sprintf("%x", "CMTP-1 key\x00example.org\x00alice\x00") + "00000001" +
		"8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394" + "0000000069572795" + "00" + strings.Repeat("00", 32)
	check := func(s *account.Store) *account.Account {
		t.Helper()
		a, err := s.Get(mustAddress(alice))
		if err != nil {
			t.Fatal(err)
		}
		h := verified(t, a)
		if got := hex.EncodeToString(h.Keys[0].KeyStatement.Append(nil)); got != want {
			t.Errorf("the first statement is\n%s\nwant\n%s", got, want)
		}
		if a.HasSeed() || a.Copy != nil || a.XzibitVersion() != 2 {
			t.Errorf("the account is %+v", a)
		}
		return a
	}
	s := open(t, dir, durable.OS)
	a := check(s)
	if err := s.SetDisabled(a.Address, true); err != nil { // writes the file anew
		t.Fatal(err)
	}
	if err := s.SetDisabled(a.Address, false); err != nil {
		t.Fatal(err)
	}
	check(open(t, dir, durable.OS))
	if a, err := s.Upload(a.ID, uploadForm2(t, a, 2, 4)); err != nil || len(verified(t, a).Keys) != 2 {
		t.Errorf("another key: %v", err)
	}
	if a, err := open(t, dir, durable.OS).Get(mustAddress("zoë@example.org")); err != nil || verified(t, a).Keys[0].NotBefore.Time() != a.Created {
		t.Errorf("the other account: %v", err)
	}
}

// A history that is none is told from one that is: each statement, each signature, the order
// and the key.
func TestOpen_BadHistory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	a := mustRegister(t, s, alice, 2)
	a, err := s.Upload(a.ID, uploadForm(t, a, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, a.ID.String()+".json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	type link struct {
		Statement []byte `json:"statement"`
		Old       []byte `json:"old,omitempty"`
	}
	for name, change := range map[string]func(m map[string]any, links []link){
		"first missing":     func(m map[string]any, l []link) { m["statements"] = l[1:] },
		"last missing":      func(m map[string]any, l []link) { m["statements"] = l[:1] },
		"exchanged":         func(m map[string]any, l []link) { m["statements"] = []link{l[1], l[0]} },
		"twice":             func(m map[string]any, l []link) { m["statements"] = []link{l[0], l[0], l[1]} },
		"altered":           func(m map[string]any, l []link) { l[0].Statement[80] ^= 1; m["statements"] = l },
		"cut":               func(m map[string]any, l []link) { l[1].Statement = l[1].Statement[:90]; m["statements"] = l },
		"longer":            func(m map[string]any, l []link) { l[1].Statement = append(l[1].Statement, 0); m["statements"] = l },
		"altered signature": func(m map[string]any, l []link) { l[1].Old[9] ^= 1; m["statements"] = l },
		"no signature":      func(m map[string]any, l []link) { l[1].Old = nil; m["statements"] = l },
		"short signature":   func(m map[string]any, l []link) { l[1].Old = l[1].Old[:63]; m["statements"] = l },
		"signed first":      func(m map[string]any, l []link) { l[0].Old = l[1].Old; m["statements"] = l },
		"of another's":      func(m map[string]any, _ []link) { m["address"] = "bob@example.org" },
		"another key":       func(m map[string]any, _ []link) { k := seeded(t, 2).Public(); m["key"] = k[:] },
		"257 of them":       func(m map[string]any, l []link) { m["statements"] = make([]link, crypt.MaxKeyStatements+1) },
		"short seed":        func(m map[string]any, _ []link) { m["seed"] = make([]byte, 31) },
		"long seed":         func(m map[string]any, _ []link) { m["seed"] = make([]byte, 33) },
		"no seed's xzibit":  func(m map[string]any, _ []link) { m["xzibit"] = a.Xzibit[:50] },
		"cut recovery copy": func(m map[string]any, _ []link) { m["copy"] = a.Copy[:50] },
		"unaltered":         nil,
	} {
		var m map[string]any
		var typed struct{ Statements []link }
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(good, &typed); err != nil || len(typed.Statements) != 2 {
			t.Fatalf("the file has %d statements, %v", len(typed.Statements), err)
		}
		if change != nil {
			change(m, typed.Statements)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := account.Open(options(t, dir, durable.OS)); (err == nil) != (change == nil) {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %q does not name the file", name, err)
		}
	}
}

// The seed is in the account's file and nowhere else: not in what the control socket is
// given, and not in what anything prints.
func TestAccount_SeedIsSecret(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	seed := bytes.Repeat([]byte{0xa7, 0x5c}, 16)
	r := register(t, alice, 2)
	r.Seed, r.Xzibit = seed, locked(t, alice, nil, 2)
	a, err := s.Add(r)
	if err != nil {
		t.Fatal(err)
	}
	mustInvite(t, s, "bob@example.org", false)
	invitations, err := s.Invitations()
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&printed, nil)), slog.New(slog.NewJSONHandler(&printed, nil))} {
		log.Info("all", "account", a, "value", *a, "seed", r.Seed, "invitations", invitations)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&printed, format+" "+format+" "+format+" "+format, a, *a, r, r.Seed)
		fmt.Fprintf(&printed, format, invitations[0])
	}
	shown, err := json.Marshal([]any{a, invitations})
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(shown)
	file, err := os.ReadFile(filepath.Join(dir, a.ID.String()+".json"))
	if err != nil {
		t.Fatal(err)
	}
	forms := []string{string(seed), hex.EncodeToString(seed), "p1ynXKdcp1ynXKdcp1ynXKdcp1ynXKdcp1ynXKdcp1w", "167 92 167 92", "0xa7, 0x5c"}
	if !strings.Contains(string(file), forms[2]) {
		t.Errorf("the file has no seed: %s", file)
	}
	for _, form := range append(forms, strings.ToUpper(forms[1])) {
		if strings.Contains(printed.String(), form) {
			t.Errorf("the seed is shown as %q", form)
		}
	}
	if strings.Contains(string(shown), `"seed"`) || strings.Contains(string(shown), `"hash"`) {
		t.Errorf("the control socket would show %s", shown)
	}
	var back account.Account
	if err := json.Unmarshal(shown[1:bytes.Index(shown, []byte(",["))], &back); err != nil || back.HasSeed() || back.Key != a.Key {
		t.Errorf("read back as %+v, %v", back, err)
	}
}
