package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"

	"github.com/BurntSushi/toml"
	"github.com/rogpeppe/go-internal/txtar"
)

const minimal = "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\n"

func mustParse(tb testing.TB, text string) *config.Config {
	tb.Helper()
	c, err := config.Parse("/etc/cmtpd/cmtpd.toml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func mustAddress(tb testing.TB, s string) address.Address {
	tb.Helper()
	a, err := address.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestParse_Defaults(t *testing.T) {
	got := mustParse(t, minimal)
	want := config.Default()
	want.Hostname, want.Domains = got.Hostname, got.Domains
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want the defaults %+v", got, want)
	}
	if got.Hostname.String() != "mx.example.org" || len(got.Domains) != 1 || got.Domains[0].String() != "example.org" {
		t.Errorf("got hostname %q and domains %q", got.Hostname, got.Domains)
	}
	// No limit is off by default.
	limits := reflect.ValueOf(want.Limits)
	for i := range limits.NumField() {
		if name := limits.Type().Field(i).Name; name != "AcceptPlaintext" && name != "AcceptUnprovenSource" && limits.Field(i).IsZero() {
			t.Errorf("the default of Limits.%s is zero", name)
		}
	}
}

func TestParse_Everything(t *testing.T) {
	c := mustParse(t, `
hostname = "MX.Example.org."
domains = ["example.org", "bücher.example"]
data_dir = "data"
postmaster = "Alice@example.org"
shutdown_grace = "1m"
smtp = { mode = "relay", backend = "[::1]:2525", proxy_protocol = "v2", relay_check = "warn" }
log.level = "debug"
log.format = "json"
accounts = { invitation_life = "2h", plain_login = false }
[listen]
addresses = ["127.0.0.1:0", "[::1]:0"]
cmtp_only = [":5225"]
proxy_from = ["192.0.2.0/24", "2001:db8::1", "::ffff:192.0.2.9"]
[limits]
max_message_size = 2147483648
large_message = "1MB"
session_timeout = "1h30m"
accept_plaintext = true
[aliases]
"Info@example.org" = "alice+info@example.org"
"office@xn--bcher-kva.example" = "info@example.org"
`)
	if c.DataDir != "/etc/cmtpd/data" || c.SpoolDir() != "/etc/cmtpd/data/spool" {
		t.Errorf("data_dir is %q, with the spool %q", c.DataDir, c.SpoolDir())
	}
	if c.Accounts.InvitationLife != 2*time.Hour || c.Accounts.PlainLogin || c.InvitationsDir() != "/etc/cmtpd/data/invitations" {
		t.Errorf("accounts are %+v", c.Accounts)
	}
	if c.SMTP.Mode != config.Relay || c.SMTP.Backend != "[::1]:2525" || c.SMTP.ProxyProtocol != config.ProxyV2 || c.SMTP.RelayCheck != config.WarnBackend {
		t.Errorf("smtp is %+v", c.SMTP)
	}
	if c.Limits.MaxMessageSize != 2*config.GiB || c.Limits.LargeMessage != 1e6 || c.Limits.SessionTimeout != 90*time.Minute || !c.Limits.AcceptPlaintext {
		t.Errorf("limits are %+v", c.Limits)
	}
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("192.0.2.9/32")}
	if !slices.Equal(c.Listen.ProxyFrom, want) {
		t.Errorf("proxy_from is %v, want %v", c.Listen.ProxyFrom, want)
	}
	if c.Log.Level.Level() != slog.LevelDebug {
		t.Errorf("log.level is %v", c.Log.Level.Level())
	}
	wantAliases := map[address.Address]address.Address{
		mustAddress(t, "info@example.org"):      mustAddress(t, "alice+info@example.org"),
		mustAddress(t, "office@bücher.example"): mustAddress(t, "info@example.org"),
	}
	if !maps.Equal(c.Aliases, wantAliases) {
		t.Errorf("aliases are %v, want %v", c.Aliases, wantAliases)
	}
	if !c.IsLocal(c.Domains[1]) || c.IsLocal(mustAddress(t, "a@elsewhere.example").Domain) {
		t.Error("IsLocal does not tell ours from others'")
	}
}

func TestParse_Hostname(t *testing.T) {
	const text = `domains = ["example.org"]`
	c, err := config.ParseOn("Host.Example.net", "c.toml", []byte(text))
	if err != nil || c.Hostname.String() != "host.example.net" {
		t.Errorf("with the machine's own name: %q, %v", c.Hostname, err)
	}
	for _, name := range []string{"host", "", "no good.example", "10.0.0.1"} {
		_, err := config.ParseOn(name, "c.toml", []byte(text))
		if p := problems(t, err); len(p) != 1 || p[0].Key != "hostname" || p[0].Line != 0 {
			t.Errorf("on a machine named %q: %v", name, err)
		}
	}
}

func problems(tb testing.TB, err error) []config.Problem {
	tb.Helper()
	e, ok := errors.AsType[*config.Error](err)
	if !ok || len(e.Problems) == 0 {
		tb.Fatalf("%v is no list of problems", err)
	}
	return e.Problems
}

// TestParse_Bad runs the bad files in testdata/bad.txtar. Each is followed by a
// file "want" with the whole error.
func TestParse_Bad(t *testing.T) {
	a, err := txtar.ParseFile("testdata/bad.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Files) < 60 || len(a.Files)%2 != 0 {
		t.Fatalf("%d files in the archive", len(a.Files))
	}
	for i := 0; i < len(a.Files); i += 2 {
		bad, want := a.Files[i], a.Files[i+1]
		t.Run(bad.Name, func(t *testing.T) {
			if want.Name != "want" {
				t.Fatalf("%q stands where its error is expected", want.Name)
			}
			_, err := config.Parse("c.toml", bad.Data)
			if err == nil {
				t.Fatal("was accepted")
			}
			problems(t, err)
			if got := err.Error() + "\n"; got != string(want.Data) {
				t.Errorf("got\n%swant\n%s", got, want.Data)
			}
		})
	}
}

func TestParse_TooManyProblems(t *testing.T) {
	for keys, want := range map[int]int{99: 99, 100: 100, 101: 100, 5000: 100} {
		var b strings.Builder
		b.WriteString(minimal)
		for i := range keys {
			fmt.Fprintf(&b, "unknown%04d = 1\n", i)
		}
		_, err := config.Parse("c.toml", []byte(b.String()))
		p := problems(t, err)
		if len(p) != want {
			t.Errorf("%d unknown keys give %d problems", keys, len(p))
		}
		if more := p[0].Text == "there are more problems"; more != (keys >= 100) {
			t.Errorf("of %d unknown keys, the first problem is %v", keys, p[0])
		}
	}
}

func TestParse_FileSize(t *testing.T) {
	fill := config.MaxFileSize - len(minimal)
	if _, err := config.Parse("c.toml", []byte(minimal+strings.Repeat("#", fill))); err != nil {
		t.Errorf("a file of the largest size: %v", err)
	}
	_, err := config.Parse("c.toml", []byte(minimal+strings.Repeat("#", fill+1)))
	if p := problems(t, err); p[0].Text != "the file exceeds 256KiB" {
		t.Errorf("one byte more: %v", err)
	}
	// The deepest nesting that fits must not exhaust the stack.
	_, err = config.Parse("c.toml", []byte("a="+strings.Repeat("[", config.MaxFileSize-2)))
	problems(t, err)
}

// A file of comments alone is no configuration yet: one line says what to do.
func TestParse_NothingSet(t *testing.T) {
	for _, text := range []string{"", "# none yet\n"} {
		_, err := config.Parse("c.toml", []byte(text))
		if p := problems(t, err); len(p) != 1 || p[0].File != "c.toml" || !strings.Contains(p[0].Text, "cmtpd init") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What cannot be read is told from what is wrong, and is both times named.
func TestLoad_Unreadable(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]error{filepath.Join(dir, "none.toml"): os.ErrNotExist, dir: syscall.EISDIR} {
		_, err := config.Load(path)
		if !errors.Is(err, config.ErrRead) || !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cmtpd.toml")
	if _, err := config.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(minimal+"data_dir = \".\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil || c.DataDir != filepath.Dir(path) {
		t.Errorf("got %+v, %v", c, err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("#"), config.MaxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = config.Load(path)
	if p := problems(t, err); p[0].File != path {
		t.Errorf("too large a file: %v", err)
	}
}

// TestConfig_Validate holds every limit to its bounds: the last good value and
// the first bad one.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []struct{ key, good, bad string }{
		{"delivery.port", "1", "0"},
		{"delivery.port", "65535", "65536"},
		{"delivery.known_domains", "16", "15"},
		{"delivery.known_domains", "16777216", "16777217"},
		{"delivery.key_cache", "1", "0"},
		{"delivery.key_cache", "1048576", "1048577"},
		{"delivery.key_cache_time", `"1s"`, `"999ms"`},
		{"delivery.key_cache_time", `"24h"`, `"24h1ns"`},
		{"delivery.max_connections", "1", "0"},
		{"delivery.max_connections", "16384", "16385"},
		{"delivery.max_connections_per_domain", "1", "0"},
		{"delivery.max_connections_per_domain", "256", "257"},
		{"delivery.retry_min", `"1s"`, `"999ms"`},
		{"delivery.retry_max", `"1m"`, `"59s"`}, // retry_min
		{"delivery.delay_notice", `"1s"`, `"999ms"`},
		{"delivery.delay_notice", `"8784h"`, `"8784h1s"`},
		{"delivery.max_age", `"4h"`, `"3h59m59s"`}, // retry_max
		{"delivery.max_age", `"8784h"`, `"8784h1s"`},
		{"dns.timeout", `"100ms"`, `"99ms"`},
		{"dns.timeout", `"1m"`, `"60001ms"`},
		{"limits.max_message_size", `"1KiB"`, "1023"},
		{"limits.max_connections", "1", "0"},
		{"limits.max_connections", "1048576", "1048577"},
		{"limits.max_connections_per_address", "1", "0"},
		{"limits.flood_pause", `"1ns"`, `"0s"`},
		{"limits.command_timeout", `"1ns"`, `"0s"`},
		{"limits.min_rate", "1", "0"},
		{"limits.min_rate", `"16MiB"`, "16777217"},
		{"limits.message_grace", `"1ns"`, `"0s"`},
		{"limits.large_message", `"4MiB"`, "4194305"},
		{"limits.message_memory", "1", "0"},
		{"limits.min_free_space", "1", "-1"},
		{"limits.min_free_space", `"1TiB"`, "1099511627777"},
		{"limits.mailbox_size", "1024", "1023"},
		{"limits.mailbox_size", `"1024TiB"`, "1125899906842625"},
		{"limits.max_waits", "1", "0"},
		{"limits.max_waits", "1048576", "1048577"},
		{"limits.max_waits_account", "1", "0"},
		{"limits.max_waits_account", "1048576", "1048577"},
		{"limits.mail_rate", "1", "0"},
		{"limits.mail_rate", "1048576", "1048577"},
		{"limits.mail_burst", "1", "0"},
		{"limits.mail_burst", "1048576", "1048577"},
		{"limits.mail_per_day", `"1KiB"`, "1023"},
		{"limits.mail_per_day", `"1024TiB"`, "1125899906842625"},
		{"limits.lookup_rate", "1", "0"},
		{"limits.lookup_rate", "1048576", "1048577"},
		{"limits.lookup_burst", "1", "0"},
		{"limits.lookup_burst", "1048576", "1048577"},
		{"limits.new_domains_rate", "1", "0"},
		{"limits.new_domains_rate", "1048576", "1048577"},
		{"limits.new_domains_burst", "1", "0"},
		{"limits.new_domains_burst", "1048576", "1048577"},
		{"limits.mark_rate", "1", "0"},
		{"limits.mark_rate", "1048576", "1048577"},
		{"limits.mark_burst", "1", "0"},
		{"limits.mark_burst", "1048576", "1048577"},
		{"limits.login_rate", "1", "0"},
		{"limits.login_burst", "1", "0"},
		{"limits.connection_rate", "1", "0"},
		{"limits.connection_rate", "1048576", "1048577"},
		{"limits.connection_burst", "1", "0"},
		{"limits.connection_burst", "1048576", "1048577"},
		{"limits.starttls_rate", "1", "0"},
		{"limits.starttls_rate", "1048576", "1048577"},
		{"limits.starttls_burst", "1", "0"},
		{"limits.starttls_burst", "1048576", "1048577"},
		{"limits.handshake_timeout", `"1ns"`, `"0s"`},
		{"limits.max_handshakes", "1", "0"},
		{"limits.max_handshakes", "4096", "4097"},
		{"limits.guess_rate", "1", "0"},
		{"limits.guess_rate", "1048576", "1048577"},
		{"limits.guess_burst", "1", "0"},
		{"limits.guess_burst", "1048576", "1048577"},
		{"limits.guess_network_rate", "1", "0"},
		{"limits.guess_network_rate", "1048576", "1048577"},
		{"limits.guess_network_burst", "1", "0"},
		{"limits.guess_network_burst", "1048576", "1048577"},
		{"limits.session_timeout", `"4s"`, `"3999ms"`}, // 64 MiB at 16 MiB/s
		{"limits.max_message_size", `"56GiB"`, `"57GiB"`},
		{"accounts.invitation_life", `"1m"`, `"59s"`},
		{"accounts.invitation_life", `"8784h"`, `"8784h1ns"`},
		{"spool.scrub_every", `"1s"`, `"999ms"`},
		{"spool.scrub_every", `"8784h"`, `"8784h1ns"`},
		{"smtp.idle_timeout", `"1ns"`, `"-1s"`},
		{"shutdown_grace", `"1ns"`, `"0s"`},
		{"metrics.listen", `"127.0.0.1:9125"`, `"192.0.2.1:9125"`},
		{"metrics.listen", `"[::1]:9125"`, `"[::]:9125"`},
		{"metrics.listen", `"localhost:9125"`, `"localhost.example:9125"`},
		{"metrics.listen", `"127.1.2.3:9125"`, `":9125"`},
		{"metrics", `{listen = "0.0.0.0:9125", allow_remote = true}`, `{listen = "0.0.0.0:9125", allow_remote = false}`},
	} {
		if _, err := config.Parse("c.toml", []byte(c.key+" = "+c.good+"\n"+minimal)); err != nil {
			t.Errorf("%s = %s: %v", c.key, c.good, err)
		}
		_, err := config.Parse("c.toml", []byte(c.key+" = "+c.bad+"\n"+minimal))
		if err == nil {
			t.Errorf("%s = %s was accepted", c.key, c.bad)
			continue
		}
		if p := problems(t, err); len(p) != 1 || p[0].Line != 1 {
			t.Errorf("%s = %s: %v", c.key, c.bad, err)
		}
	}
}

func TestConfig_ValidateBare(t *testing.T) {
	err := config.Default().Validate()
	var keys []string
	for _, p := range problems(t, err) {
		keys = append(keys, p.Key)
	}
	if !slices.Equal(keys, []string{"domains", "hostname"}) {
		t.Errorf("the defaults alone: %v", err)
	}
	c := mustParse(t, minimal)
	c.DataDir = "relative"
	c.Aliases = map[address.Address]address.Address{{}: mustAddress(t, "a@example.org")}
	if p := problems(t, c.Validate()); len(p) != 2 || p[0].Key != `aliases."@"` || p[1].Key != "data_dir" {
		t.Errorf("got %v", p)
	}
}

// TestConfig_Paths: everything that is written lies in the data directory, each
// thing in a place of its own.
func TestConfig_Paths(t *testing.T) {
	c := mustParse(t, minimal+"data_dir = \"/srv/cmtpd\"\n")
	paths := []string{c.SpoolDir(), c.AccountsDir(), c.GuessesDir(), c.InvitationsDir(), c.TrustDir(), c.KeyFile(), c.SpoolKeyFile(), c.ControlSocket(), c.LockFile()}
	for _, p := range paths {
		if filepath.Dir(p) != c.DataDir {
			t.Errorf("%s does not lie in %s", p, c.DataDir)
		}
	}
	slices.Sort(paths)
	if len(slices.Compact(paths)) != 9 {
		t.Errorf("two things share a place: %q", paths)
	}
}

func TestParse_AliasDepth(t *testing.T) {
	chain := func(n int) []byte {
		var b strings.Builder
		b.WriteString(minimal + "[aliases]\n")
		for i := range n {
			b.WriteString(`"` + string(rune('a'+i)) + `@example.org" = "` + string(rune('b'+i)) + "@example.org\"\n")
		}
		return []byte(b.String())
	}
	if _, err := config.Parse("c.toml", chain(config.MaxAliasDepth)); err != nil {
		t.Errorf("the longest chain: %v", err)
	}
	_, err := config.Parse("c.toml", chain(config.MaxAliasDepth+1))
	if p := problems(t, err); len(p) != 1 || p[0].Key != `aliases."a@example.org"` || p[0].Line != 4 {
		t.Errorf("one more: %v", err)
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]config.ByteSize{
		"0": 0, "7": 7, "7B": 7, "1kB": 1000, "1KB": 1000, "10MB": 10e6, "512KiB": 512 << 10, "64MiB": 64 << 20,
		"2GiB": 2 << 30, "3TiB": 3 << 40, "9223372036854775807": 1<<63 - 1, "8388607TiB": 8388607 << 40,
	} {
		got, err := config.ParseByteSize(in)
		if err != nil || got != want {
			t.Errorf("ParseByteSize(%q) = %d, %v; want %d", in, got, err, want)
		}
		if again, err := config.ParseByteSize(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is read as %d, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1.5GiB", "1 MiB", "1mib", "1M", "9223372036854775808", "8388608TiB", "1e3"} {
		if got, err := config.ParseByteSize(in); err == nil {
			t.Errorf("ParseByteSize(%q) = %d", in, got)
		}
	}
}

// encode writes c as a file. The toml package cannot write the keys of aliases.
func encode(tb testing.TB, c *config.Config) []byte {
	tb.Helper()
	plain := *c
	plain.Aliases = nil
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	if err := enc.Encode(plain); err != nil {
		tb.Fatal(err)
	}
	aliases := make(map[string]string)
	for from, to := range c.Aliases {
		aliases[from.String()] = to.String()
	}
	if len(aliases) > 0 {
		if err := enc.Encode(map[string]any{"aliases": aliases}); err != nil {
			tb.Fatal(err)
		}
	}
	return b.Bytes()
}

// FuzzParse: whatever is accepted is valid, and written out and read again it is
// the same. Whatever is refused is refused with problems fit for a terminal.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzParse/*")
	if err != nil || len(seeds) < 8 {
		f.Fatalf("the committed corpus is missing: %d seeds, %v", len(seeds), err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.ParseOn("mx.example.org", "/etc/c.toml", data)
		if err != nil {
			for _, p := range problems(t, err) {
				if p.Text == "" || p.File == "" || p.Line < 0 || p.Line > 1+bytes.Count(data, []byte("\n")) {
					t.Errorf("problem %+v", p)
				}
				if strings.ContainsFunc(p.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("%q is not fit for a terminal", p)
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("what was accepted is not valid: %v", err)
		}
		text := encode(t, c)
		again, err := config.Parse("/etc/c.toml", text)
		if err != nil {
			t.Fatalf("read again: %v\n%s", err, text)
		}
		if c.Aliases == nil {
			again.Aliases = nil
		} else if len(c.Aliases) == 0 {
			c.Aliases = nil
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("got %+v, wrote\n%s\nread %+v", c, text, again)
		}
	})
}

// A trusted resolver is one that is named by its address.
func TestParse_TrustedResolver(t *testing.T) {
	for _, at := range []string{"127.0.0.1:53", "[::1]:5353"} {
		c := mustParse(t, minimal+"[dns]\ntrusted = true\nresolver = \""+at+"\"\n")
		if !c.DNS.Trusted || c.DNS.Resolver != at {
			t.Errorf("got %+v", c.DNS)
		}
	}
	c := mustParse(t, minimal)
	c.DNS.BrokenZone, c.DNS.SignedZone = address.Domain{}, address.Domain{}
	if p := problems(t, c.Validate()); len(p) != 2 || p[0].Key != "dns.broken_zone" || p[1].Key != "dns.signed_zone" {
		t.Errorf("without zones: %v", p)
	}
}
