package cmtptest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Domain is the domain of every Site, and Password that of its users.
const (
	Domain   = "example.org"
	Password = "correct horse battery staple"
)

// patience is how long a Site waits for what should take a moment.
const patience = 60 * time.Second

// Settings are keys of the configuration, dotted ("limits.login_rate"), and their
// values as TOML.
type Settings map[string]string

func defaults() Settings {
	return Settings{
		"hostname":               `"mx.` + Domain + `"`,
		"domains":                `["` + Domain + `"]`,
		"data_dir":               `"data"`,
		"dns.resolver":           `"127.0.0.1:1"`, // nobody: no test asks the machine's own
		"listen.addresses":       `["127.0.0.1:0"]`,
		"limits.max_connections": "200",
		"limits.min_free_space":  `"1MiB"`,
	}
}

// A Site is a configuration and the data of one server. Daemons come and go on it.
type Site struct {
	Dir     string // holds everything
	Config  string // path of the configuration
	Data    string // path of data_dir
	Program string // what serves
	Command string // what Run runs
}

// NewSite makes a Site for the time of a test, with settings beside or in place
// of a small default.
func NewSite(t testing.TB, settings Settings) *Site {
	t.Helper()
	dir := t.TempDir()
	s := &Site{Dir: dir, Config: filepath.Join(dir, "cmtpd.toml"), Data: filepath.Join(dir, "data"),
		Program: Program(t), Command: Release(t)}
	if err := os.WriteFile(s.Config, []byte(settings.TOML()), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// TOML returns the settings over the defaults of a Site.
func (s Settings) TOML() string {
	all := defaults()
	maps.Copy(all, s)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		b.WriteString(key + " = " + all[key] + "\n")
	}
	return b.String()
}

// A Result is what a command did.
type Result struct {
	Out, Err string
	Status   int
}

// Run runs cmtpd with these arguments on the Site to its end.
func (s *Site) Run(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Command, append(args, "--config", s.Config)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("cmtpd %q: %v\n%s", args, err, errs.String())
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Must is Run for what has to succeed. It returns what was printed.
func (s *Site) Must(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	r := s.Run(t, stdin, args...)
	if r.Status != 0 {
		t.Fatalf("cmtpd %q ended with %d:\n%s%s", args, r.Status, r.Out, r.Err)
	}
	return r.Out
}

// AddUsers adds accounts of Domain, all under Password.
func (s *Site) AddUsers(t testing.TB, accounts ...string) {
	t.Helper()
	for _, a := range accounts {
		s.Must(t, Password+"\n", "user", "add", a+"@"+Domain, "--password-stdin", "--version-2")
	}
}

// Start starts a daemon, which the end of the test kills if it still runs then.
func (s *Site) Start(t testing.TB) *Daemon {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := Launch(ctx, s.Program, s.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Bury(t) })
	return d
}

// Bury is Kill, and fails the test when the log has what none may have. Then the log is
// forgotten: those of hundreds of daemons would not fit into memory.
func (d *Daemon) Bury(t testing.TB) {
	t.Helper()
	d.Kill()
	if line := d.bad(); line != "" {
		t.Errorf("cmtpd logged %s\n%s", line, d.Log())
	}
	d.log.clear()
}

// Stop stops a daemon in order, and fails the test when it ends with another
// status than 0.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if err := d.Terminate(); err != nil {
		t.Fatal(err)
	}
	d.Ends(t)
}

// Ends waits for the end of a daemon that was told to stop.
func (d *Daemon) Ends(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.Wait(ctx); err != nil {
		t.Fatalf("cmtpd ended: %v\n%s", err, d.Log())
	}
}

// Line is Await with the test's patience.
func (d *Daemon) Line(t testing.TB, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := d.Await(ctx, words...)
	if err != nil {
		t.Fatal(err)
	}
	return line
}
