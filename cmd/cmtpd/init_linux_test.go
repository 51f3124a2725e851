package main_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/discovery/dnstest"
)

// initSite makes a Site with cmtpd init, to listen at a loopback address.
func initSite(t *testing.T, flags ...string) *cmtptest.Site {
	t.Helper()
	dir := t.TempDir()
	s := &cmtptest.Site{Dir: dir, Config: filepath.Join(dir, "cmtpd.toml"), Data: filepath.Join(dir, "data"), Program: cmtptest.Program(t), Command: cmtptest.Release(t)}
	s.Must(t, "", append([]string{"init", "--yes", "--without-dns", "--user", "root", "--data-dir", s.Data, "--metrics", cmtptest.Loopback() + ":0"}, flags...)...)
	text, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	for old, with := range map[string]string{
		`#addresses = [":25"]`: `addresses = ["` + cmtptest.Loopback() + `:0"]`, "#max_connections = 8192": "max_connections = 200",
		`#min_free_space = "256MiB"`: `min_free_space = "1MiB"`, `#resolver = ""`: `resolver = "127.0.0.1:1"`,
	} {
		if !strings.Contains(string(text), "\n"+old+"\n") {
			t.Fatalf("%s has no line %s", s.Config, old)
		}
		text = []byte(strings.Replace(string(text), "\n"+old+"\n", "\n"+with+"\n", 1))
	}
	if err := os.WriteFile(s.Config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// initInTerminal runs cmtpd init in a terminal, in a directory of its own.
func initInTerminal(t *testing.T, flags ...string) (term *cmtptest.Terminal, dir string) {
	t.Helper()
	dir = t.TempDir()
	args := append([]string{"init", "--without-dns", "--user", "root", "--data-dir", filepath.Join(dir, "data"), "--config", filepath.Join(dir, "cmtpd.toml")}, flags...)
	return cmtptest.RunInTerminal(t, nil, cmtptest.Release(t), args...), dir
}

// say waits for a question, and answers it.
func say(t *testing.T, term *cmtptest.Terminal, question, answer string) {
	t.Helper()
	term.Shows(t, regexp.MustCompile(`(?m)^`+question+`.*: $`))
	term.Type(t, answer+"\n")
}

// TestInit_Terminal: a person is asked for what no flag has said, again where the answer cannot be, and is shown what
// is to be written before it is.
func TestInit_Terminal(t *testing.T) {
	t.Parallel()
	term, dir := initInTerminal(t, "--hostname", "mx.example.org")
	say(t, term, "The domains of the mail", "no_domain")
	say(t, term, "The domains of the mail[^\n]*\r?\n[^\n]+\r?\nThe domains of the mail", "example.org, example.com")
	say(t, term, "The mail server behind cmtpd", "192.0.2.9:10025")
	say(t, term, `The PROXY protocol [^\n]* \[v2\]`, "")
	say(t, term, `The address that gets the mail to postmaster, or nobody \[nobody\]`, "")
	say(t, term, `Where this machine alone sees its status page and metrics \(host:port\), or none`, "192.0.2.1:9125")
	say(t, term, `Where this machine alone[^\n]*\r?\nexpected [^\n]*\r?\nWhere this machine alone`, "127.0.0.1:9126")
	term.Shows(t, regexp.MustCompile(`To be written\r?\n(.*\r?\n)+Write it\? \[y/N\] $`))
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("it has written before")
	}
	term.Type(t, "y\n")
	if status, shown := term.Ends(t); status != 0 {
		t.Fatalf("it ended with %d and showed %s", status, shown)
	}
	text, err := os.ReadFile(filepath.Join(dir, "cmtpd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`domains = ["example.org", "example.com"]`, `hostname = "mx.example.org"`, `backend = "192.0.2.9:10025"`, `proxy_protocol = "v2"`, `#postmaster = "alice@example.org"`, `listen = "127.0.0.1:9126"`} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("there is no %s in\n%s", line, text)
		}
	}
}

// TestInit_TerminalRefuses: who thinks better of it, at any question, has changed nothing.
func TestInit_TerminalRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		keys string
		want string
	}{
		"interrupted": {"half\x03", "interrupted; nothing was changed"},
		"end":         {"\x04", "no answer; nothing was changed"},
		"no":          {"none\n\nn\n", "nothing was changed"},
		"Ctrl-C last": {"none\n\n\x03", "interrupted; nothing was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term, dir := initInTerminal(t, "--hostname", "mx.example.org", "--domain", "example.org", "--metrics", "none")
			term.Shows(t, regexp.MustCompile(`The mail server behind cmtpd`))
			for _, line := range strings.SplitAfter(tt.keys, "\n") {
				term.Type(t, line)
				if strings.HasPrefix(line, "none") {
					term.Shows(t, regexp.MustCompile(`postmaster`))
				} else if line == "\n" {
					term.Shows(t, regexp.MustCompile(`Write it`))
				}
			}
			if status, shown := term.Ends(t); status != 1 || !strings.Contains(shown, tt.want) {
				t.Errorf("it ended with %d and showed %q", status, shown)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("it left %v, %v", left, err)
			}
		})
	}
}

// TestInit_Metrics: what init has written is served, unless it was told not to.
func TestInit_Metrics(t *testing.T) {
	t.Parallel()
	about := []string{"--domain", "example.org", "--hostname", "mx.example.org", "--backend", "none"}
	d := initSite(t, about...).Start(t)
	if shown := get(t, "http://"+d.Metrics+"/metrics"); !strings.Contains(shown, "\ncmtpd_build_info{") {
		t.Errorf("it is %q", shown)
	}
	d.Stop(t)
	d = initSite(t, append(about, "--metrics", "none")...).Start(t)
	if d.Metrics != "" {
		t.Errorf("it is shown at %s how it is", d.Metrics)
	}
	d.Stop(t)
}

// TestInit_Force: a configuration that is written anew gives the answers of the former one where no flag has others: a
// server that has fronted a mail server does not refuse all SMTP after it. Where it is to, init says so.
func TestInit_Force(t *testing.T) {
	t.Parallel()
	const refused = "No mail server is behind"
	site := initSite(t, "--domain", "here.example", "--domain", "there.example", "--hostname", "mx.here.example",
		"--backend", "127.0.0.1:10099", "--proxy", "v1", "--postmaster", "ops@here.example")
	again := func(flags ...string) (said, text string) {
		t.Helper()
		copies, err := filepath.Glob(site.Config + ".before-*") // two in a second would have one name
		for _, c := range copies {
			err = errors.Join(err, os.Remove(c))
		}
		if err != nil {
			t.Fatal(err)
		}
		said = site.Must(t, "", append([]string{"init", "--yes", "--without-dns", "--user", "root", "--force"}, flags...)...)
		b, err := os.ReadFile(site.Config)
		if err != nil {
			t.Fatal(err)
		}
		return said, string(b)
	}
	said, text := again()
	for _, line := range []string{`domains = ["here.example", "there.example"]`, `hostname = "mx.here.example"`, `data_dir = "` + site.Data + `"`,
		`mode = "relay"`, `backend = "127.0.0.1:10099"`, `proxy_protocol = "v1"`, `postmaster = "ops@here.example"`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%s is not in\n%s", line, text)
		}
	}
	if !regexp.MustCompile(`(?m)^listen = "127\.`).MatchString(text) || strings.Contains(said, refused) {
		t.Errorf("init has said\n%s\nand written\n%s", said, text)
	}
	if said, text = again("--backend", "none"); !strings.Contains(text, "\nmode = \"refuse\"\n") || !strings.Contains(said, refused) {
		t.Errorf("init has said\n%s\nand written\n%s", said, text)
	}
	if err := os.WriteFile(site.Config, []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, text = again("--domain", "other.example", "--hostname", "mx.other.example", "--data-dir", site.Data); !strings.Contains(text, `["other.example"]`) {
		t.Errorf("over a wrong configuration init has written\n%s", text)
	}
}

// TestInit_DNS: what DNS has already is not asked for again, and what leads elsewhere is told.
func TestInit_DNS(t *testing.T) {
	t.Parallel()
	site := initSite(t, "--domain", "here.example", "--domain", "there.example", "--domain", "bare.example", "--hostname", "mx.here.example", "--backend", "none")
	zone := "example. SOA a. b. 1 1 1 1 60\nhere.example. MX 10 mx.here.example.\nthere.example. MX 10 mx.there.example.\nmx.there.example. A 192.0.2.7\n"
	records := site.Must(t, "", "key", "show")
	for line := range strings.Lines(records) {
		if strings.HasPrefix(line, "_cmtp.here.example.") {
			zone += line
		}
	}
	server := dnstest.Start(t, zone)
	text, err := os.ReadFile(site.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(site.Config, []byte(strings.Replace(string(text), "127.0.0.1:1\"", server.Addr+"\"", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	first := site.Must(t, "", "init", "--yes", "--user", "root")
	for _, want := range []string{"mx.here.example. 3600 IN A", "\nhere.example. 3600 IN MX 10 mx.here.example.\n", "\nbare.example. 3600 IN MX 10 mx.here.example.\n",
		"; Mail for there.example goes to mx.there.example by DNS. Unless that is this machine, it needs: there.example. 3600 IN MX 10 mx.here.example.",
		"; DNS has the _cmtp record of here.example already.", "\n_cmtp.there.example. 3600 IN TXT "} {
		if !strings.Contains(first, want) {
			t.Errorf("there is no %q in\n%s", want, first)
		}
	}
	if !strings.Contains(first, "user invite NAME@here.example") {
		t.Errorf("nobody is to be invited first in\n%s", first)
	}
	server.SetZone(t, zone+"mx.here.example. A 192.0.2.1\n")
	second := site.Must(t, "", "init", "--yes", "--user", "root")
	for _, gone := range []string{"\nhere.example. 3600 IN MX", "mx.here.example. 3600 IN A", "_cmtp.here.example. 3600"} {
		if strings.Contains(second, gone) {
			t.Errorf("%q is still in\n%s", gone, second)
		}
	}
	named := site.Must(t, "", "init", "--yes", "--user", "root", "--without-dns", "--force", "--domain", "here.example", "--backend", "none",
		"--hostname", "mx.here.example", "--data-dir", site.Data, "--postmaster", "ops@here.example")
	if !strings.Contains(named, "user invite ops@here.example") {
		t.Errorf("the postmaster is not invited first in\n%s", named)
	}
}
