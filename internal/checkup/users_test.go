package checkup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/durable"
)

func user(name string) address.Address {
	a, err := address.Parse(name + "@example.org")
	if err != nil {
		panic(err)
	}
	return a
}

// What the configuration says of names is held against the accounts, and nothing is changed by it.
func TestCheck_Users(t *testing.T) {
	cfg := datadirtest.Filled(t)
	u, err := admin.OpenUsers(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bob", "carol"} {
		if _, err := u.CreateVersion2(user(name), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := u.Create(user("alice"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := u.SetDisabled(user("carol"), true); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	const aliases = "[aliases]\n"
	for name, tt := range map[string]struct {
		lines string
		wrong []string // of what is found of users
		note  string   // what is among them, or with a minus in front what is not
	}{
		"Nobody":            {"", nil, "nobody gets the mail to postmaster at example.org: it stays"},
		"Postmaster":        {"postmaster = \"alice@example.org\"\n", nil, "-postmaster"},
		"PostmasterGone":    {"postmaster = \"dave@example.org\"\n", []string{"mail to postmaster@example.org is refused"}, "-postmaster"},
		"PostmasterOff":     {"postmaster = \"carol@example.org\"\n", []string{"mail to postmaster@example.org is refused"}, "-postmaster"},
		"PostmasterAlias":   {aliases + "\"postmaster@example.org\" = \"bob@example.org\"\n", nil, "-postmaster"},
		"PostmasterNowhere": {aliases + "\"postmaster@example.org\" = \"dave@example.org\"\n", []string{"mail to postmaster@example.org is refused"}, "-postmaster"},
		"Shadow":            {aliases + "\"bob@example.org\" = \"alice@example.org\"\n", []string{"bob@example.org is an alias of alice@example.org, and an account too, which gets the mail"}, ""},
		"ShadowOff":         {aliases + "\"carol@example.org\" = \"alice@example.org\"\n", []string{"which is disabled"}, ""},
		"Alias":             {aliases + "\"info@example.org\" = \"alice@example.org\"\n", nil, ""},
		"PlainLogin":        {"", nil, "-older form"},
		"NoPlainLogin":      {"accounts.plain_login = false\n", nil, "older form, on a new device: bob@example.org, carol@example.org; let each run shorebird passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			wrong, notes := checkedAll(t, cfg, tt.lines)
			if len(wrong) != len(tt.wrong) {
				t.Fatalf("%q are wrong", wrong)
			}
			for i, w := range tt.wrong {
				if !strings.HasPrefix(wrong[i], "users: ") || !strings.Contains(wrong[i], w) {
					t.Errorf("%q does not say %q", wrong[i], w)
				}
			}
			text, not := strings.CutPrefix(tt.note, "-")
			if strings.Contains(strings.Join(notes, "\n"), text) == not {
				t.Errorf("%q in %q: %v", text, notes, !not)
			}
		})
	}
}

// A damaged account is found, a cut-off write is left where it is, and what was opened to be
// looked at cannot be changed.
func TestCheck_UsersUntouched(t *testing.T) {
	cfg := datadirtest.Filled(t)
	if err := os.Mkdir(cfg.AccountsDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(cfg.AccountsDir(), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".half.tmp")
	store, err := account.Read(cfg.AccountsDir(), durable.OS)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Remove(user("alice")); err == nil {
		t.Error("it was changed")
	}
	if wrong, _ := checked(t, cfg, ""); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	write(fmt.Sprintf("%032d.json", 7))
	wrong, _ := checked(t, cfg, "")
	one(t, wrong, "users: ", fmt.Sprintf("%032d.json", 7), "does not start")
	var left []string
	all, err := os.ReadDir(cfg.AccountsDir())
	for _, e := range all {
		left = append(left, e.Name())
	}
	if err != nil || !slices.Contains(left, ".half.tmp") {
		t.Errorf("left: %q, %v", left, err)
	}
}
