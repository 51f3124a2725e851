package checkup_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/checkup"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/durable"
	"cmtpd/internal/identity"
	"cmtpd/internal/spool"
)

// route is where the mail of example.org goes in tests: here.
const route = "example.org. MX 10 mx.example.org.\nmx.example.org. A 127.0.0.1\n"

// checked is checkedAll without what is noted of every server here: it has no postmaster, and perhaps
// nobody who keeps the clock.
func checked(t *testing.T, cfg *config.Config, lines string) (wrong, notes []string) {
	t.Helper()
	wrong, notes = checkedAll(t, cfg, lines)
	return wrong, slices.DeleteFunc(notes, func(s string) bool {
		return strings.HasPrefix(s, "users: nobody gets the mail to postmaster") || strings.HasPrefix(s, "clock: nothing is known")
	})
}

// found writes a server's configuration, with lines behind what is needed, and checks it. It
// returns what is wrong, and what is noted. What lines do not say depends on nothing of this machine: nobody answers for
// DNS, and no port is wanted that a program may have.
func found(t *testing.T, cfg *config.Config, lines string) (wrong, notes []checkup.Finding) {
	t.Helper()
	path := filepath.Join(filepath.Dir(cfg.DataDir), "cmtpd.toml")
	text := fmt.Sprintf("hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\ndata_dir = %q\ndelivery.loopback = true\n", cfg.DataDir)
	for _, line := range []string{`dns.resolver = "127.0.0.1:1"`, `listen.addresses = ["127.0.0.1:0"]`, `limits.min_free_space = 1`} {
		if key, _, _ := strings.Cut(line, " "); !strings.Contains(lines, key) {
			text += line + "\n"
		}
	}
	if err := os.WriteFile(path, []byte(text+lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for f := range checkup.Check(context.Background(), path) {
		if f.Note {
			notes = append(notes, f)
		} else {
			wrong = append(wrong, f)
		}
	}
	return wrong, notes
}

// checkedAll is found in lines of text.
func checkedAll(t *testing.T, cfg *config.Config, lines string) (wrong, notes []string) {
	t.Helper()
	text := func(all []checkup.Finding) (s []string) {
		for _, f := range all {
			s = append(s, f.String())
		}
		return s
	}
	w, n := found(t, cfg, lines)
	return text(w), text(n)
}

// one expects one thing to be wrong, in these words.
func one(t *testing.T, wrong []string, words ...string) {
	t.Helper()
	if len(wrong) != 1 {
		t.Errorf("%d findings: %q", len(wrong), wrong)
		return
	}
	for _, w := range words {
		if !strings.Contains(wrong[0], w) {
			t.Errorf("%q does not say %q", wrong[0], w)
		}
	}
	if strings.Contains(wrong[0], "\n") {
		t.Errorf("%q is more than one line", wrong[0])
	}
}

func TestCheck_Fine(t *testing.T) {
	cfg := datadirtest.Config(t)
	if wrong, notes := checked(t, cfg, ""); len(wrong) != 0 || len(notes) != 5 { // data, both keys, daemon, DNS
		t.Errorf("before the first start: %q, %q", wrong, notes)
	}
	if _, err := os.Stat(cfg.DataDir); err == nil {
		t.Error("the check has made the data directory")
	}
	cfg = datadirtest.Filled(t)
	if wrong, notes := checked(t, cfg, ""); len(wrong) != 0 || len(notes) != 2 || !strings.Contains(notes[0], "no daemon runs") || !strings.Contains(notes[1], "DNS does not answer") {
		t.Errorf("without a daemon: %q, %q", wrong, notes)
	}
}

func TestCheck_Config(t *testing.T) {
	cfg := datadirtest.Config(t)
	wrong, _ := checked(t, cfg, "hostnam = 1\nsmtp.mode = \"maybe\"\n")
	if len(wrong) != 2 || !strings.Contains(wrong[0], "hostnam") || !strings.Contains(wrong[1], "smtp.mode") {
		t.Errorf("%q", wrong)
	}
	if found := slices.Collect(checkup.Check(context.Background(), cfg.DataDir+"/none.toml")); len(found) != 1 || found[0].Note {
		t.Errorf("no file: %v", found)
	}
}

func TestCheck_Files(t *testing.T) {
	cfg := datadirtest.Filled(t)
	checked(t, cfg, "") // writes the configuration
	if err := os.Chmod(filepath.Join(filepath.Dir(cfg.DataDir), "cmtpd.toml"), 0o664); err != nil {
		t.Fatal(err)
	}
	all, _ := checked(t, cfg, "")
	one(t, all, "config: ", "may be changed by others", "chmod go-w")
	if err := os.Chmod(filepath.Join(filepath.Dir(cfg.DataDir), "cmtpd.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	chmod := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(cfg.DataDir, 0o750)
	wrong, _ := checked(t, cfg, "")
	one(t, wrong, "data: ", "chmod 700 "+cfg.DataDir)
	chmod(cfg.DataDir, 0o700)
	for _, path := range []string{cfg.KeyFile(), cfg.SpoolKeyFile()} {
		chmod(path, 0o640)
		wrong, _ = checked(t, cfg, "")
		one(t, wrong, "keys: ", "chmod 600 "+path)
		chmod(path, 0o600)
	}
	if _, err := identity.NewRotation(cfg, false, time.Now).Now(""); err != nil {
		t.Fatal(err)
	}
	former, err := filepath.Glob(cfg.KeyFile() + "." + strings.Repeat("?", 40))
	if err != nil || len(former) != 1 {
		t.Fatal(former, err)
	}
	wrong, notes := checked(t, cfg, "")
	if len(wrong) != 0 || !strings.Contains(strings.Join(notes, "\n"), "the next start signs that") {
		t.Errorf("after a rotation: %q, %q", wrong, notes)
	}
	chmod(former[0], 0o644)
	wrong, _ = checked(t, cfg, "")
	if len(wrong) != 2 || !strings.Contains(wrong[0], "chmod 600 "+former[0]) { // and the spool cannot be taken over
		t.Errorf("a former key that is open to others: %q", wrong)
	}
	if err := os.Remove(former[0]); err != nil {
		t.Fatal(err)
	}
	wrong, _ = checked(t, cfg, "")
	one(t, wrong, "spool: ", "belongs to another identity key", former[0])
	if err := os.Remove(cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
	wrong, _ = checked(t, cfg, "")
	one(t, wrong, "keys: ", cfg.KeyFile()+" is missing", "backup")
}

// Who may not look is told so once, with the command of who may. What is not theirs to see is not called wrong.
func TestCheck_Barred(t *testing.T) {
	const variable = "CMTPD_TEST_BARRED" // the configuration, in the process that may not look
	if path := os.Getenv(variable); path != "" {
		for f := range checkup.Check(t.Context(), path) {
			fmt.Println(f.Note, f)
		}
		return
	}
	cfg := datadirtest.Filled(t)
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0")) // as the daemon that cannot be asked
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found(t, cfg, fmt.Sprintf("listen.addresses = [%q]\n", l.Addr()))
	dir := filepath.Dir(cfg.DataDir)
	path := filepath.Join(dir, "cmtpd.toml")
	program := exec.Command(os.Args[0], "-test.run=^TestCheck_Barred$")
	remedy := "chmod 700 " + cfg.DataDir
	if os.Geteuid() == 0 { // whom a mode does not stop
		const nobody = 65534
		program.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		remedy = "run this as the owner of " + cfg.DataDir
		b, err := os.ReadFile(os.Args[0]) // it lies where only its maker may look
		if err != nil {
			t.Fatal(err)
		}
		program.Path = filepath.Join(dir, "program")
		if err := os.WriteFile(program.Path, b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o644)); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Chmod(cfg.DataDir, 0); err != nil {
		t.Fatal(err)
	} else {
		defer os.Chmod(cfg.DataDir, 0o700)
	}
	program.Env, program.Dir = append(os.Environ(), variable+"="+path), "/"
	out, err := program.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var wrong []string
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "false "); ok {
			wrong = append(wrong, text)
		}
	}
	one(t, wrong, "data: nothing in "+cfg.DataDir+" was looked at", remedy)
	if !strings.Contains(string(out), "true dns: ") {
		t.Errorf("what has nothing to do with it was not looked at: %s", out)
	}
}

func TestCheck_Disk(t *testing.T) {
	wrong, _ := checked(t, datadirtest.Filled(t), "limits.min_free_space = \"1TiB\"\n")
	one(t, wrong, "disk: ", "mail is refused", "limits.min_free_space is 1099511627776")
}

// Without a daemon the spool itself is looked at.
func TestCheck_Damage(t *testing.T) {
	cfg := datadirtest.Filled(t)
	segments, err := filepath.Glob(filepath.Join(cfg.SpoolDir(), "log", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	b, err := durable.ReadFile(durable.OS, segments[0], 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	b[200] ^= 1
	if err := os.WriteFile(segments[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := spool.OpenReadOnly(cfg.SpoolDir(), durable.OS)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wrong, _ := checked(t, cfg, "")
	if len(wrong) != len(s.Damage()) || len(wrong) == 0 || !strings.Contains(wrong[0], "spool: damage: log/0000000000000001.seg") {
		t.Errorf("%d places are damaged: %q", len(s.Damage()), wrong)
	}
}

// A spool that is gone, as where its file system is not mounted, is no new one.
func TestCheck_NoSpool(t *testing.T) {
	for name, lose := range map[string]func(dir string) error{
		"gone":      os.RemoveAll,
		"unmounted": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
		"log":       func(dir string) error { return os.RemoveAll(filepath.Join(dir, "log")) },
		"segments":  func(dir string) error { return os.Remove(filepath.Join(dir, "log", "0000000000000001.seg")) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := datadirtest.Filled(t)
			if err := lose(cfg.SpoolDir()); err != nil {
				t.Fatal(err)
			}
			wrong, _ := checked(t, cfg, "")
			one(t, wrong, "spool: "+cfg.SpoolDir()+" has no log", "mount it, or restore")
			if err := errors.Join(os.RemoveAll(cfg.SpoolDir()), os.Remove(cfg.SpoolKeyFile())); err != nil {
				t.Fatal(err)
			}
			if wrong, _ := checked(t, cfg, ""); len(wrong) > 0 {
				t.Errorf("before the first start: %q", wrong)
			}
		})
	}
}

// A running daemon says what it has met; the spool is not read.
func TestCheck_Running(t *testing.T) {
	cfg := datadirtest.Filled(t)
	_, stop := datadirtest.Occupy(t, cfg, brokenSpool{})
	defer stop()
	wrong, notes := checked(t, cfg, "listen.addresses = [\"127.0.0.1:0\"]\n")
	if len(notes) != 1 || len(wrong) != 2 || !strings.Contains(wrong[0], "takes no mail") || !strings.Contains(wrong[1], "damage: large/x: gone") {
		t.Errorf("%q, %q", wrong, notes)
	}
}

// A daemon that is not met where it should listen is as good as none.
func TestCheck_Unmet(t *testing.T) {
	cfg := datadirtest.Filled(t)
	_, stop := datadirtest.Occupy(t, cfg, soundSpool{})
	defer stop()
	wrong, _ := checked(t, cfg, fmt.Sprintf("listen.addresses = [%q]\n", net.JoinHostPort(cmtptest.Loopback(), "1")))
	one(t, wrong, "ports: a daemon runs, and is not met at 127.", "connection refused", "ss -ltnp")
}

// Where a daemon does not answer, its ports are not another program's, and no other user is to ask it.
func TestCheck_SilentDaemon(t *testing.T) {
	cfg := datadirtest.Filled(t)
	socket, err := control.Listen(cfg.ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	defer srv.Close()
	go srv.Serve(socket)
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wrong, _ := checked(t, cfg, fmt.Sprintf("listen.addresses = [%q]\n", l.Addr()))
	one(t, wrong, "daemon: ", "look at the daemon's log")
	if strings.Contains(wrong[0], "owner") {
		t.Errorf("%q", wrong)
	}
}

// A disk that dies does not bury what else is wrong.
func TestCheck_MuchDamage(t *testing.T) {
	cfg := datadirtest.Filled(t)
	var of worseSpool
	_, stop := datadirtest.Occupy(t, cfg, &of)
	defer stop()
	for n, want := range map[int]int{20: 20, 21: 21, 30: 21} {
		of.places.Store(int64(n))
		wrong, _ := checked(t, cfg, "")
		if len(wrong) != want {
			t.Fatalf("%d findings of %d places", len(wrong), n)
		}
		last := fmt.Sprintf("damage in %d more places; the rest is served", n-20)
		if got := strings.Contains(wrong[len(wrong)-1], last); got != (n > 20) {
			t.Errorf("of %d places the last is %q", n, wrong[len(wrong)-1])
		}
	}
}

// A worseSpool is damaged in many places.
type worseSpool struct {
	soundSpool
	places atomic.Int64
}

func (s *worseSpool) Damage() []spool.Damage {
	return slices.Repeat([]spool.Damage{{File: "large/x", Reason: "gone"}}, int(s.places.Load()))
}

type soundSpool struct{ brokenSpool }

func (soundSpool) Stats() spool.Stats     { return spool.Stats{} }
func (soundSpool) Damage() []spool.Damage { return nil }

type brokenSpool struct{}

func (brokenSpool) Stats() spool.Stats     { return spool.Stats{Failed: true, Damage: 1} }
func (brokenSpool) Damage() []spool.Damage { return []spool.Damage{{File: "large/x", Reason: "gone"}} }
func (brokenSpool) RemoveAll(context.Context, []spool.ID, string) (int, error) {
	return 0, spool.ErrFailed
}

// A named server has keys, and DNS says what a test lets it say of them.
type named struct {
	t    *testing.T
	cfg  *config.Config
	zone *dnstest.Server
}

func newNamed(t *testing.T) *named {
	s := &named{t, datadirtest.Filled(t), dnstest.Start(t, "")}
	s.cfg.DNS.Resolver = s.zone.Addr
	return s
}

// publish makes what is to be published the whole of DNS, with the way to the server.
func (s *named) publish(all []identity.DomainView) {
	s.t.Helper()
	zone := "example.org. SOA a. b. 1 1 1 1 60\nsecond.example. SOA a. b. 1 1 1 1 60\n" + route
	for _, d := range all {
		zone += d.Zone + "\n"
	}
	s.zone.SetZone(s.t, zone)
}

func (s *named) keys() identity.KeysView {
	s.t.Helper()
	v, err := identity.Keys(s.t.Context(), s.cfg, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *named) rotation(dns bool) *identity.Rotation {
	return identity.NewRotation(s.cfg, dns, time.Now)
}

func (s *named) do(v identity.StepView, err error) identity.StepView {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// A port to which others come, and where nobody listens, is told of.
func TestCheck_Port(t *testing.T) {
	s := newNamed(t)
	records := s.keys().Records
	for _, test := range []struct {
		listen, port string
		want         bool // a note
	}{
		{`listen.addresses = [":2525"]`, "", true},
		{`listen.addresses = [":2525"]`, "; port=2525", false},
		{`listen.addresses = [":25", ":2525"]`, "", false},
		{`listen.addresses = [":25"]`, "; port=2525", true},
		{"listen.addresses = [\":25\"]\nlisten.cmtp_only = [\"[::]:2525\"]", "; port=2525", false},
		{`listen.addresses = ["127.0.0.1:2525", "[::1]:2525"]`, "", false},
		{`listen.addresses = ["127.0.0.1:25", "192.0.2.1:2525"]`, "", true},
		{"listen.addresses = [\":2525\"]\nlisten.proxy_from = [\"192.0.2.1\"]", "", false},
	} {
		all := slices.Clone(records)
		for i := range all {
			all[i].Zone = strings.TrimSuffix(all[i].Zone, "\"") + test.port + "\""
		}
		s.publish(all)
		wrong, notes := checked(t, s.cfg, "dns.resolver = \""+s.zone.Addr+"\"\n"+test.listen+"\n")
		if wrong != nil {
			t.Errorf("%s: wrong: %q", test.listen, wrong)
		}
		if got := strings.Contains(strings.Join(notes, "\n"), "does not listen, of example.org ("); got != test.want {
			t.Errorf("%s%s: %q", test.listen, test.port, notes)
		}
	}
}

// What is published is held against the keys that are here.
func TestCheck_Records(t *testing.T) {
	s := newNamed(t)
	lines := "dns.resolver = \"" + s.zone.Addr + "\"\n"
	s.zone.SetZone(t, route)
	look := func() (wrong, notes []string) {
		t.Helper()
		wrong, notes = checked(t, s.cfg, lines)
		return wrong, slices.DeleteFunc(notes[1:], func(n string) bool { return strings.Contains(n, "the resolver validates") }) // and that no daemon runs
	}
	noted := func(words ...string) {
		t.Helper()
		wrong, notes := look()
		if len(wrong) != 0 {
			t.Errorf("wrong: %q", wrong)
		}
		one(t, notes, words...)
	}
	noted("dns: no _cmtp record is published for example.org")
	s.publish(s.keys().Records)
	if wrong, notes := look(); len(wrong)+len(notes) != 0 {
		t.Errorf("all is right: %q, %q", wrong, notes)
	}
	first := s.keys().Records
	prepared := s.do(s.rotation(true).Prepare(t.Context(), ""))
	noted("does not name the next key", "run: cmtpd key rotate")
	s.do(s.rotation(false).Switch(t.Context()))
	wrong, _ := look()
	if len(wrong) == 0 || !strings.Contains(wrong[0], "names other keys than the server's") || !strings.Contains(wrong[0], "key show --dns") {
		t.Errorf("the wrong key: %q", wrong)
	}
	s.publish(prepared.Domains)
	wrong, notes := look()
	if len(wrong) != 0 || len(notes) < 1 || !strings.Contains(notes[len(notes)-1], "names the former key") || !strings.Contains(notes[len(notes)-1], "as it should be until") {
		t.Errorf("a former key at once: %q, %q", wrong, notes)
	}
	switched := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(s.cfg.KeyFile(), switched, switched); err != nil {
		t.Fatal(err)
	}
	wrong, _ = look()
	one(t, wrong, "names the former key", "--retire")
	s.publish(s.keys().Records)
	if wrong, _ := look(); len(wrong) != 0 {
		t.Errorf("after it was retired: %q", wrong)
	}
	zone := strings.Replace(s.keys().Records[0].Zone, "p=", "n="+first[0].Record[strings.Index(first[0].Record, "p=")+2:]+"; p=", 1)
	s.zone.SetZone(t, zone+"\n"+route)
	wrong, _ = look()
	one(t, wrong, "as successor, which is not the one")
	s.zone.SetZone(t, route+"_cmtp.example.org. TXT \"v=CMTP1; mode=enforce\"")
	wrong, _ = look()
	one(t, wrong, "counts for nothing", "would let nobody in")
}

func TestCheck_Validation(t *testing.T) {
	s := newNamed(t)
	s.zone.SetZone(t, route+"org. SOA a. b. 1 1 1 1 1\ndnssec-failed.org. SOA a. b. 1 1 1 1 1\n")
	wrong, _ := checked(t, s.cfg, "dns.trusted = true\ndns.resolver = \""+s.zone.Addr+"\"\n")
	one(t, wrong, "dns: the resolver does not validate DNSSEC", "unset dns.trusted")
}

// A resolver that does not answer costs a bounded time, and is noted once.
func TestCheck_Silent(t *testing.T) {
	s := newNamed(t)
	s.zone.Set(dnstest.Behaviour{Drop: true}, "")
	began := time.Now()
	wrong, notes := checked(t, s.cfg, "dns.trusted = true\ndns.timeout = \"1m\"\ndns.resolver = \""+s.zone.Addr+"\"\n")
	if len(wrong) != 0 || len(notes) != 3 || !strings.Contains(strings.Join(notes, "\n"), "could not be proved") {
		t.Errorf("%q, %q", wrong, notes)
	}
	if took := time.Since(began); took > time.Minute { // which is one question's time
		t.Errorf("it took %v", took)
	}
}

// Nobody is told that all is well who has to read on, or where nothing was asked of a daemon.
func TestVerdict(t *testing.T) {
	note := func(check string) checkup.Finding { return checkup.Finding{Check: check, Note: true} }
	for want, notes := range map[string][]checkup.Finding{
		"nothing is wrong":          nil,
		"nothing is wrong; 1 note":  {note("dns")},
		"nothing is wrong; 2 notes": {note("dns"), note("clock")},
		"nothing is wrong that can be seen without asking a daemon; 1 note":  {note("daemon")},
		"nothing is wrong that can be seen without asking a daemon; 2 notes": {note("daemon"), note("dns")},
	} {
		if got := checkup.Verdict(notes); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	_, notes := found(t, datadirtest.Filled(t), "")
	if got := checkup.Verdict(notes); !strings.HasPrefix(got, "nothing is wrong that can be seen without asking a daemon; ") {
		t.Errorf("of a server without a daemon: %q", got)
	}
}

// A finding is one line of text, though a daemon that somebody has taken over, or another server, has its say in it.
func TestFinding_String(t *testing.T) {
	f := checkup.Finding{Check: "ports", Text: "\x1b[2J is met\nok: nothing\u009b31m is wrong", Remedy: "restart \u202eit"}
	if got, want := f.String(), "ports: \ufffd[2J is met; ok: nothing\ufffd31m is wrong; restart \ufffdit"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
