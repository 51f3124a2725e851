package account_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/durable"
)

// newDirectory returns one of example.org and second.example, with these aliases,
// each as "from to".
func newDirectory(t *testing.T, postmaster string, aliases ...string) *account.Directory {
	t.Helper()
	s := open(t, t.TempDir(), durable.OS)
	for i, addr := range []string{"alice@example.org", "bob@example.org", "zoë@example.org", "carol@second.example", "gone@example.org", "mallory@removed.example"} {
		mustAdd(t, s, addr, byte(10+i))
	}
	if err := s.SetDisabled(mustAddress("gone@example.org"), true); err != nil {
		t.Fatal(err)
	}
	d := &account.Directory{
		Store:   s,
		Domains: []address.Domain{mustAddress("x@example.org").Domain, mustAddress("x@second.example").Domain},
		Aliases: map[address.Address]address.Address{},
	}
	for _, a := range aliases {
		from, to, _ := strings.Cut(a, " ")
		d.Aliases[mustAddress(from)] = mustAddress(to)
	}
	if postmaster != "" {
		d.Postmaster = mustAddress(postmaster)
	}
	return d
}

// verdict is who an answer of the directory is, as a table shows it.
func verdict(a *account.Account, err error) string {
	switch {
	case errors.Is(err, account.ErrUnknown):
		return "unknown"
	case errors.Is(err, account.ErrForeign):
		return "foreign"
	case errors.Is(err, address.ErrInvalid):
		return "invalid"
	case err != nil:
		return err.Error()
	case a == nil:
		return "server"
	}
	return a.Address.String()
}

// resolutions are whose mailbox a name is, in the directory of TestDirectory_Resolve.
var resolutions = []struct{ account, domain, want string }{
	{"alice", "example.org", "alice@example.org"},
	{"alice", "", "alice@example.org"},
	{"ALICE", "EXAMPLE.ORG", "alice@example.org"},
	{"alice", "example.org.", "alice@example.org"},
	{"zoe\u0308", "", "zoë@example.org"},
	{"carol", "second.example", "carol@second.example"},
	{"carol", "example.org", "unknown"},
	{"alice", "second.example", "unknown"},
	{"nobody", "", "unknown"},
	{"gone", "", "unknown"},
	{"gone+x", "", "unknown"},
	{"", "", "server"},
	{"", "second.example", "server"},
	{"", "other.example", "foreign"},
	{"alice", "other.example", "foreign"},
	{"mallory", "removed.example", "foreign"},
	{"alice", "exa mple", "invalid"},
	{"al ice", "", "invalid"},
	{"../alice", "", "invalid"},
	{"alice@example.org", "", "invalid"},

	{"sales", "", "alice@example.org"},
	{"sales+any", "", "alice@example.org"},
	{"sales+big", "", "bob@example.org"},
	{"sales+BIG", "", "bob@example.org"},
	{"sales+big+more", "", "alice@example.org"},
	{"sales", "second.example", "unknown"},
	{"info+x", "second.example", "carol@second.example"},
	{"across", "", "carol@second.example"},
	{"tagged", "", "alice@example.org"},
	{"alice+a+b", "", "alice@example.org"},
	{"+alice", "", "unknown"},
	{"bob", "", "bob@example.org"},
	{"bob+tag", "", "bob@example.org"},

	{"one", "", "alice@example.org"},
	{"one+x", "", "alice@example.org"},
	{"five", "", "unknown"}, // a fifth alias; config refuses it
	{"loop", "", "unknown"},
	{"self", "", "unknown"},
	{"swell", "", "unknown"},
	{"nowhere", "", "unknown"},
	{"dead", "", "unknown"},

	{"postmaster", "", "server"},
	{"PostMaster", "second.example", "server"},
	{"postmaster+x", "", "server"},
	{"chief", "", "server"},
	{"postmaster", "other.example", "foreign"},
	{"postmaster2", "", "unknown"},
}

func TestDirectory_Resolve(t *testing.T) {
	d := newDirectory(t, "",
		"sales@example.org alice@example.org",
		"sales+big@example.org bob@example.org",
		"info@second.example carol@second.example",
		"across@example.org carol@second.example",
		"tagged@example.org alice+from@example.org",
		"one@example.org two@example.org", "two@example.org three@example.org",
		"three@example.org four@example.org", "four@example.org alice@example.org",
		"five@example.org one@example.org",
		"loop@example.org pool@example.org", "pool@example.org loop@example.org",
		"self@example.org self@example.org", "swell@example.org swell+x@example.org",
		"nowhere@example.org nobody@example.org", "dead@example.org gone@example.org",
		"bob@example.org alice@example.org", // beside an account of that name
		"chief@example.org postmaster@example.org",
	)
	for _, tt := range resolutions {
		if got := verdict(d.Resolve(tt.account, tt.domain)); got != tt.want {
			t.Errorf("%q at %q is %s, want %s", tt.account, tt.domain, got, tt.want)
		}
	}
}

func TestDirectory_Resolve_Postmaster(t *testing.T) {
	d := newDirectory(t, "bob@example.org", "chief@example.org postmaster@example.org")
	resolve := func(account, domain, want string) {
		t.Helper()
		if got := verdict(d.Resolve(account, domain)); got != want {
			t.Errorf("%q at %q is %s, want %s", account, domain, got, want)
		}
	}
	resolve("postmaster", "", "bob@example.org")
	resolve("postmaster+x", "second.example", "bob@example.org")
	resolve("chief", "", "bob@example.org")
	resolve("", "", "server")
	mustAdd(t, d.Store, "postmaster@second.example", 20)
	resolve("postmaster", "second.example", "postmaster@second.example")
	resolve("postmaster", "", "bob@example.org")
	d.Aliases[mustAddress("postmaster@example.org")] = mustAddress("alice@example.org")
	resolve("postmaster", "", "alice@example.org")
	delete(d.Aliases, mustAddress("postmaster@example.org"))
	if err := d.Store.SetDisabled(mustAddress("bob@example.org"), true); err != nil {
		t.Fatal(err)
	}
	resolve("postmaster", "", "unknown")
}

// As many aliases as the configuration allows are followed, and no more.
func TestDirectory_Resolve_Depth(t *testing.T) {
	for n := range config.MaxAliasDepth + 2 {
		var aliases []string
		for i := range n {
			aliases = append(aliases, fmt.Sprintf("a%d@example.org a%d@example.org", i, i+1))
		}
		d := newDirectory(t, "", aliases...)
		mustAdd(t, d.Store, fmt.Sprintf("a%d@example.org", n), 30)
		want := fmt.Sprintf("a%d@example.org", n)
		if n > config.MaxAliasDepth {
			want = "unknown"
		}
		if got := verdict(d.Resolve("a0", "")); got != want {
			t.Errorf("through %d aliases: %s, want %s", n, got, want)
		}
	}
}

func TestDirectory_Login(t *testing.T) {
	d := newDirectory(t, "bob@example.org", "sales@example.org alice@example.org")
	for user, want := range map[string]string{
		"alice":                   "alice@example.org",
		"ALICE":                   "alice@example.org",
		"alice@example.org":       "alice@example.org",
		"Alice@Example.ORG.":      "alice@example.org",
		"carol@second.example":    "carol@second.example",
		"carol":                   "unknown",
		"nobody":                  "unknown",
		"gone":                    "unknown",
		"gone@example.org":        "unknown",
		"sales":                   "unknown",
		"alice+x":                 "unknown",
		"postmaster":              "unknown",
		"mallory@removed.example": "foreign",
		"alice@other.example":     "foreign",
		"":                        "invalid",
		"@":                       "invalid",
		"@example.org":            "invalid",
		"alice@":                  "invalid",
		"alice@example.org@x":     "invalid",
		"../alice":                "invalid",
		"al\x00ice":               "invalid",
	} {
		if got := verdict(d.Login(user)); got != want {
			t.Errorf("LOGIN %q is %s, want %s", user, got, want)
		}
		if at, err := address.Parse(user); err == nil {
			if got := verdict(d.Account(at)); got != want {
				t.Errorf("the account of %s is %s, want %s", at, got, want)
			}
		}
	}
}

func TestDirectory_Domain(t *testing.T) {
	d := newDirectory(t, "")
	for name, want := range map[string]string{"": "example.org", "Second.Example": "second.example"} {
		if got, err := d.Domain(name); err != nil || got.String() != want {
			t.Errorf("%q is %v, %v, want %s", name, got, err, want)
		}
	}
	if _, err := d.Domain("sub.example.org"); !errors.Is(err, account.ErrForeign) || !strings.HasPrefix(err.Error(), "sub.example.org: ") {
		t.Errorf("a foreign domain: %v", err)
	}
}
