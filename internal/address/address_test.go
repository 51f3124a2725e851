package address_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"cmtpd/internal/address"
)

func TestParseAccount(t *testing.T) {
	long := strings.Repeat("a", address.MaxLength)
	for _, c := range []struct{ in, want string }{
		{"alice", "alice"},
		{"Alice", "alice"},
		{"ALICE+Work", "alice+work"},
		{"..", ".."}, // a name like any other: it never reaches a file system
		{"gru\u0308n", "grün"},
		{"ÄRGER", "Ärger"}, // only ASCII case is folded
		{"'; drop table", ""},
		{"';drop--", "';drop--"},
		{long, long},
		{long + "a", ""},
		{"", ""},
		{"../../etc/passwd", ""},
		{`a\b`, ""},
		{"a@b", ""},
		{"a b", ""},
		{"a\u00a0b", ""},
		{"a\x1b[2J", ""},
		{"a\nb", ""},
		{"a\u202eb", ""},
		{"a\u200bb", ""},
		{"\xff", ""},
		{"a\ufffdb", ""},
		{"a\x7f", ""},
	} {
		got, err := address.ParseAccount(c.in)
		if c.want == "" {
			if !errors.Is(err, address.ErrInvalid) {
				t.Errorf("ParseAccount(%q) = %q, %v; want ErrInvalid", c.in, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("ParseAccount(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestParseDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + label + "." + strings.Repeat("a", 61)
	for _, c := range []struct{ in, want string }{
		{"example.org", "example.org"},
		{"Example.ORG.", "example.org"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"localhost", "localhost"},
		{"a-b.example", "a-b.example"},
		{"4chan.example", "4chan.example"},
		{label + ".example", label + ".example"},
		{longest, longest},
		{longest + "a", ""},
		{label + "a.example", ""},
		{"", ""},
		{".", ""},
		{"a..b", ""},
		{".a", ""},
		{"-a.example", ""},
		{"a_b.example", ""},
		{"a b.example", ""},
		{"a/b.example", ""},
		{"127.0.0.1", ""},
		{"[127.0.0.1]", ""},
		{"xn--a.example", ""},
		{"exa\x00mple.org", ""},
	} {
		got, err := address.ParseDomain(c.in)
		if c.want == "" {
			if !errors.Is(err, address.ErrInvalid) {
				t.Errorf("ParseDomain(%q) = %q, %v; want ErrInvalid", c.in, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("ParseDomain(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := address.Parse("Alice+x@Bücher.example")
	if err != nil || got.String() != "alice+x@xn--bcher-kva.example" {
		t.Fatalf("got %q, %v", got, err)
	}
	if b := got.Account.Base().String(); b != "alice" {
		t.Errorf("Base = %q, want alice", b)
	}
	if u := got.Domain.Unicode(); u != "bücher.example" {
		t.Errorf("Unicode = %q, want bücher.example", u)
	}
	for _, bad := range []string{"", "alice", "@example.org", "alice@", "a@b@c", "alice@10.0.0.1"} {
		if got, err := address.Parse(bad); !errors.Is(err, address.ErrInvalid) {
			t.Errorf("Parse(%q) = %q, %v; want ErrInvalid", bad, got, err)
		}
	}
}

func TestAccount_Base(t *testing.T) {
	for in, want := range map[string]string{"a": "a", "a+b": "a", "a+b+c": "a", "+b": "+b", "a+": "a"} {
		a, err := address.ParseAccount(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Base().String(); got != want {
			t.Errorf("Base of %q = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"alice@example.org", "Alice+t@BÜCHER.example", "../../x@y", "a@[::1]", "gru\u0308n@example.org"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := address.Parse(s)
		if err != nil {
			return
		}
		n := a.String()
		again, err := address.Parse(n)
		if err != nil || again != a {
			t.Fatalf("the normal form %q of %q parses to %q, %v", n, s, again, err)
		}
		if !utf8.ValidString(n) || strings.ContainsAny(n, "/\\\x00\n\r\x1b ") || strings.Count(n, "@") != 1 {
			t.Fatalf("the normal form %q of %q is not safe", n, s)
		}
	})
}
