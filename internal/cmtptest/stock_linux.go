package cmtptest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cmtpd/internal/setup"
)

// unpacked is where "make peers" puts the mail servers that Debian installs only one of:
// MAIL_SERVERS, or its default there.
func unpacked(t testing.TB, pkg string) string {
	t.Helper()
	dir := os.Getenv("MAIL_SERVERS")
	if dir == "" {
		dir = "/var/cache/cmtpd-mail-servers"
	}
	dir = filepath.Join(dir, pkg)
	if _, err := os.Stat(dir); err != nil {
		LeaveOut(t, dir+" is not there: make peers unpacks it")
	}
	return dir
}

// A Stock is a mail server as Debian installs it, for mail.example with a user bob, and not started yet. It
// has a file system of its own, and relays for clients at 127.0.0.1 alone.
type Stock struct {
	Root string // its /
	kind setup.Kind
	uid  int // of the daemon, where it has a user in Root alone
	log  string
}

// stockHost is the name of every Stock, and the domain of its mail.
const stockHost = "mail.example"

// NewStock installs a mail server for the time of a test. It needs root.
func NewStock(t testing.TB, kind setup.Kind) *Stock {
	t.Helper()
	if os.Geteuid() != 0 {
		LeaveOut(t, "a mail server is started only by root")
	}
	root, err := os.MkdirTemp("", "stock") // not t.TempDir: a socket's path must be short
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	check(t, os.Chmod(root, 0o755))
	s := &Stock{Root: root, kind: kind, uid: 901}
	switch kind {
	case setup.Postfix:
		s.installPostfix(t)
	case setup.OpenSMTPD:
		s.installOpenSMTPD(t)
	case setup.Exim:
		s.installExim(t)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s wrote:\n%s", kind, s.Log())
		}
	})
	return s
}

func (s *Stock) path(name string) string { return filepath.Join(s.Root, name) }

// dir makes a directory that belongs to the daemon, or to root.
func (s *Stock) dir(t testing.TB, name string, uid int) {
	t.Helper()
	check(t, os.MkdirAll(s.path(name), 0o755))
	check(t, os.Chown(s.path(name), uid, uid))
}

func (s *Stock) write(t testing.TB, name, text string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(s.path(name)), 0o755))
	check(t, os.WriteFile(s.path(name), []byte(text), 0o644))
}

// Edit changes a file as a person would. The text must be there.
func (s *Stock) Edit(t testing.TB, name, old, with string) {
	t.Helper()
	b, err := os.ReadFile(s.path(name))
	check(t, err)
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %q:\n%s", name, old, b)
	}
	check(t, os.WriteFile(s.path(name), []byte(strings.Replace(string(b), old, with, 1)), 0o644))
}

func (s *Stock) installPostfix(t testing.TB) {
	t.Helper()
	Need(t, "postfix")
	const dist = "/usr/share/postfix/master.cf.dist" // of which Debian makes master.cf
	master, err := os.ReadFile(dist)
	check(t, err)
	s.log = s.path("log")
	s.write(t, "etc/postfix/master.cf", string(master))
	s.write(t, "etc/postfix/main.cf", strings.ReplaceAll(`compatibility_level = 3.6
queue_directory = ROOT/queue
data_directory = ROOT/data
maillog_file = ROOT/log
maillog_file_prefixes = ROOT
myhostname = mail.example
mydestination = mail.example
mynetworks = 127.0.0.1/32
alias_maps =
local_recipient_maps =
local_transport = discard
default_transport = discard
`, "ROOT", s.Root))
	check(t, os.Mkdir(s.path("queue"), 0o755))
	check(t, os.Mkdir(s.path("data"), 0o755))
	check(t, command("chown", "postfix", s.path("data")))
}

func (s *Stock) installOpenSMTPD(t testing.TB) {
	t.Helper()
	pkg := unpacked(t, "opensmtpd")
	s.install(t, filepath.Join(pkg, "usr/sbin/smtpd"))
	s.users(t, "opensmtpd:901:/var/lib/opensmtpd/empty", "opensmtpq:902:/var/lib/opensmtpd/empty", "bob:903:/home/bob")
	s.dir(t, "var/lib/opensmtpd/empty", 0)
	s.dir(t, "home/bob", 903)
	s.write(t, "etc/aliases", "")
	s.write(t, "etc/mailname", stockHost+"\n")
	conf, err := os.ReadFile(filepath.Join(pkg, "etc/smtpd.conf"))
	check(t, err)
	s.write(t, "etc/smtpd.conf", string(conf))
	s.Edit(t, "etc/smtpd.conf", "listen on localhost", "listen on all hostname "+stockHost)
	s.Edit(t, "etc/smtpd.conf", `# match from any for domain "example.org"`, `match from any for domain "`+stockHost+`"`)
	s.log = s.path("log")
}

func (s *Stock) installExim(t testing.TB) {
	t.Helper()
	s.install(t, filepath.Join(unpacked(t, "exim4-daemon-heavy"), "usr/sbin/exim4"))
	s.users(t, "Debian-exim:901:/var/spool/exim4", "bob:903:/home/bob")
	for _, name := range []string{"var/spool/exim4", "var/log/exim4", "run/exim4"} {
		s.dir(t, name, s.uid)
	}
	s.dir(t, "var/lib/exim4", 0)
	s.dir(t, "var/mail", 8)
	s.write(t, "etc/aliases", "postmaster: bob\n")
	s.write(t, "etc/mailname", stockHost+"\n")
	conf := unpacked(t, "exim4-config")
	check(t, os.CopyFS(s.path("etc/exim4"), os.DirFS(filepath.Join(conf, "etc/exim4"))))
	s.write(t, "etc/exim4/update-exim4.conf.conf", `dc_eximconfig_configtype='internet'
dc_other_hostnames='`+stockHost+`'
dc_local_interfaces=''
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='false'
dc_relay_nets=''
dc_smarthost=''
CFILEMODE='644'
dc_use_split_config='false'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
`)
	script, err := os.ReadFile(filepath.Join(conf, "usr/sbin/update-exim4.conf"))
	check(t, err)
	s.write(t, "update-exim4.conf", strings.NewReplacer("/etc/exim4", s.path("etc/exim4"), "/etc/mailname", s.path("etc/mailname"), "/var/lib/exim4", s.path("var/lib/exim4"),
		"/usr/sbin/exim4", "/nonexistent", "root:Debian-exim", "0:"+strconv.Itoa(s.uid)).Replace(string(script)))
	s.log = s.path("var/log/exim4/mainlog")
}

// libraries are what ldd(1) names of files.
var libraries = regexp.MustCompile(`/\S+`)

// install puts a program into the root, with what it needs to run there: /dev/null, and the libraries of
// this machine.
func (s *Stock) install(t testing.TB, program string) {
	t.Helper()
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil || strings.Contains(string(out), "not found") {
		LeaveOut(t, fmt.Sprintf("%s lacks libraries, which make peers installs: %v\n%s", program, err, out))
	}
	for _, file := range append(libraries.FindAllString(string(out), -1), program, "/etc/services", "/etc/nsswitch.conf") {
		to := s.path(file)
		if file == program {
			to = s.path("usr/sbin/" + filepath.Base(program))
		}
		b, err := os.ReadFile(file)
		check(t, err)
		check(t, os.MkdirAll(filepath.Dir(to), 0o755))
		check(t, os.WriteFile(to, b, 0o755))
	}
	for _, name := range []string{"dev", "tmp", "run", "var/spool"} {
		s.dir(t, name, 0)
	}
	check(t, os.Chmod(s.path("tmp"), fs.ModeSticky|0o777))
	check(t, os.Symlink("/run", s.path("var/run")))
	check(t, syscall.Mknod(s.path("dev/null"), syscall.S_IFCHR|0o666, 1<<8|3))
	check(t, os.Chmod(s.path("dev/null"), 0o666))
}

// users makes the root's users: this machine's, and more, as name:uid:home.
func (s *Stock) users(t testing.TB, more ...string) {
	t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	check(t, err)
	group, err := os.ReadFile("/etc/group")
	check(t, err)
	var users, groups strings.Builder // the first one of a name counts
	for _, u := range more {
		f := strings.Split(u, ":")
		fmt.Fprintf(&users, "%s:x:%s:%s::%s:/bin/sh\n", f[0], f[1], f[1], f[2])
		fmt.Fprintf(&groups, "%s:x:%s:\n", f[0], f[1])
	}
	s.write(t, "etc/passwd", users.String()+string(passwd))
	s.write(t, "etc/group", groups.String()+string(group))
}

// Run runs a command of a setup.Move, in the root that is the server's.
func (s *Stock) Run(t testing.TB, shell string) {
	t.Helper()
	etc := s.path("etc/postfix")
	shell = strings.NewReplacer(" /etc/", " "+s.Root+"/etc/", "postconf ", "postconf -c "+etc+" ", "postfix check", "postfix -c "+etc+" check",
		"smtpd -n", "chroot "+s.Root+" /usr/sbin/smtpd -n").Replace(shell)
	if s.kind == setup.Exim && shell == "update-exim4.conf" {
		shell = "sh " + s.path("update-exim4.conf")
	}
	if out, err := exec.Command("sh", "-ec", shell).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
}

// Start starts the server, which stops with the test.
func (s *Stock) Start(t testing.TB) {
	t.Helper()
	if s.kind == setup.Postfix {
		etc := s.path("etc/postfix")
		runPostfix(t, etc, s.log, "start")
		t.Cleanup(func() { runPostfix(t, etc, s.log, "stop") })
		return
	}
	args := []string{"/usr/sbin/exim4", "-bdf"}
	if s.kind == setup.OpenSMTPD {
		args = []string{"/usr/sbin/smtpd", "-d"}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.Root}
	cmd.Dir = "/"
	out, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	check(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
}

// Log returns what the server has written down.
func (s *Stock) Log() string {
	b, _ := os.ReadFile(s.log)
	if s.kind == setup.Exim {
		more, _ := os.ReadFile(s.path("log"))
		b = append(b, more...)
	}
	return string(b)
}

// Logs waits until the server has written what matches.
func (s *Stock) Logs(t testing.TB, match *regexp.Regexp) {
	t.Helper()
	await(t, fmt.Sprintf("%s to write %v", s.kind, match), func() bool { return match.MatchString(s.Log()) })
}
