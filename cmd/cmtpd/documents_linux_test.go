package main_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	main "cmtpd/cmd/cmtpd"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/trust"
)

// TestDocuments_Story does what README and operations say, from the installation to the rotation of the key, as it
// stands there: the blocks with <!-- run: NUMBER --> before them, in the order of their numbers. Further marks are
//
//	as: PERSON    who types: cmtpd, bob or alice; else root, or what sudo says
//	file: PATH    the block is a file; where the path is no whole one, in the person's home
//	says: TEXT    what the block's commands print has it
//	damage:       a bit of the spool changes before
//
// and any other name is a word of the block, and what it stands for here. A comment that says "status 3" tells how a
// command ends. All of it happens in a machine of its own, as far as files and network go: its names are in its
// /etc/hosts, nobody answers for DNS, and a mail server listens behind. There is no systemd in it, so systemctl is
// played by the test.
func TestDocuments_Story(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	type step struct {
		number int
		path   string
		cmtptest.Block
	}
	var steps []step
	for _, d := range cmtptest.ReadDocuments(t) {
		for _, b := range d.Blocks {
			if run, ok := b.Marks["run"]; ok {
				n, err := strconv.Atoi(run)
				if err != nil {
					t.Fatalf("%s:%d: %v", d.Path, b.Line, err)
				}
				steps = append(steps, step{n, d.Path, b})
			}
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.number, b.number) })
	for i, st := range steps {
		if st.number != i+1 {
			t.Fatalf("%s:%d: step %d comes after step %d", st.path, st.Line, st.number, i)
		}
		s.at = fmt.Sprintf("%s:%d", st.path, st.Line)
		s.play(st.Block)
	}
	if len(steps) < 20 {
		t.Errorf("the story has only %d steps", len(steps))
	}
	s.after()
}

// A stage is where the story plays.
type stage struct {
	t      *testing.T
	dir    string // what the machine has of its own: etc, home, ...
	pid    string // of the process that keeps the machine
	daemon *cmtptest.Daemon
	mail   chan string // what the mail server behind got
	at     string      // the block
	said   strings.Builder
}

const (
	work     = "/srv" // where everybody stands
	password = "correct horse battery staple"
)

// keeper makes the machine out of directories of $1, and keeps it.
const keeper = `set -e
mount --make-rprivate /
for d in etc home srv var/lib usr/local/bin; do mount --bind "$1/$d" "/$d"; done
ip link set lo up
echo ready
exec sleep infinity`

func newStage(t *testing.T) *stage {
	cmtptest.Need(t, "unshare", "nsenter", "setpriv", "setcap", "ip", "swaks", "useradd", "nft")
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can make a machine of its own")
	}
	s := &stage{t: t, dir: t.TempDir(), mail: make(chan string, 8)}
	for _, d := range []string{"etc/systemd/system", "home/bob/.config/shorebird", "home/alice/.config/shorebird", "srv/bin", "var/lib", "usr/local/bin"} {
		s.must(os.MkdirAll(filepath.Join(s.dir, d), 0o755))
	}
	for _, name := range []string{"passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "ld.so.cache", "ssl", "alternatives", "perl"} {
		if out, err := exec.Command("cp", "-a", "/etc/"+name, filepath.Join(s.dir, "etc")).CombinedOutput(); err != nil && !strings.Contains(string(out), "No such file") {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, name := range []string{"passwd", "group", "shadow", "gshadow"} { // the user is made by the story, whoever is here
		b, err := os.ReadFile(filepath.Join(s.dir, "etc", name))
		s.must(err)
		s.write(filepath.Join("etc", name), regexp.MustCompile(`(?m)^cmtpd:.*\n`).ReplaceAllString(string(b), ""))
	}
	s.write("etc/hosts", "127.0.0.1 localhost mx.example.org mail.example.org\n")
	s.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
	s.write("srv/password", password+"\n")
	s.write("srv/text", "The plan is good.\n")
	s.write("srv/report.pdf", "%PDF-1.7, nearly\n")
	s.must(os.Chmod(filepath.Join(s.dir, "srv"), 0o777))
	s.must(os.CopyFS(filepath.Join(s.dir, "srv/configs"), os.DirFS(unitDir)))
	build := exec.Command("go", "build", "-o", filepath.Join(s.dir, "usr/local/bin/shorebird"), "cmtpd/cmd/shorebird")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(cmtptest.Release(t))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.dir, "srv/bin/cmtpd"), program, 0o755))
	s.keep()
	s.serveMail()
	return s
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", s.at, err, s.said.String())
	}
}

func (s *stage) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644))
}

// keep starts the process that keeps the machine.
func (s *stage) keep() {
	cmd := exec.Command("unshare", "--mount", "--net", "sh", "-c", keeper, "sh", s.dir)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		cmd.Wait()
		cmtptest.LeaveOut(s.t, "no machine can be made here: "+errs.String()) // as in some containers
	}
	s.pid = strconv.Itoa(cmd.Process.Pid)
}

// serveMail starts the mail server behind, in the machine: it takes mail for example.org alone, and PROXY headers.
func (s *stage) serveMail() {
	type result struct {
		l   net.Listener
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread stays in the machine's network, and ends with this function
		fd, err := unix.Open("/proc/"+s.pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err != nil {
			made <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp", "127.0.0.1:10025")
		made <- result{l, err}
	}()
	r := <-made
	s.must(r.err)
	server := gosmtp.NewServer(gosmtp.BackendFunc(func(c *gosmtp.Conn) (gosmtp.Session, error) {
		return &behindSession{stage: s, client: c.Conn().RemoteAddr().String()}, nil
	}))
	server.Domain = "mail.example.org"
	done := make(chan error)
	go func() { done <- server.Serve(&proxyproto.Listener{Listener: r.l, ReadHeaderTimeout: 10 * time.Second}) }()
	s.t.Cleanup(func() {
		server.Close()
		<-done
	})
}

type behindSession struct {
	stage  *stage
	client string
	to     string
}

func (*behindSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (*behindSession) Reset()                                 {}
func (*behindSession) Logout() error                          { return nil }

func (b *behindSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if !strings.HasSuffix(to, "@example.org") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 7, 1}, Message: "no relaying for strangers"}
	}
	b.to = to
	return nil
}

func (b *behindSession) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	b.stage.mail <- b.to + " from " + b.client
	return nil
}

// play does what a block says.
func (s *stage) play(b cmtptest.Block) {
	s.said.Reset()
	if file, ok := b.Marks["file"]; ok {
		if !filepath.IsAbs(file) {
			file = filepath.Join("home", b.Marks["as"], file)
		}
		s.write(file, strings.Join(b.Lines, "\n")+"\n")
		return
	}
	if _, ok := b.Marks["damage"]; ok {
		s.flip()
	}
	meanings := make(map[string]string)
	for name, value := range b.Marks {
		if !slices.Contains([]string{"run", "as", "says", "damage"}, name) {
			meanings[name] = s.meaning(name, value)
		}
	}
	for _, text := range b.Lines {
		l, err := cmtptest.ParseLine(text)
		s.must(err)
		if len(l.Words) == 0 {
			continue
		}
		variants := [][]string{l.Words}
		if l.Words[0] == "cmtpd" {
			variants, err = cmtptest.CommandLine{New: main.Command}.Variants(l.Words)
			s.must(err)
		}
		for _, words := range variants {
			for i, w := range words {
				words[i] = cmp.Or(meanings[w], w)
			}
			s.do(cmp.Or(l.User, b.Marks["as"], "root"), words, l)
		}
	}
	if says := b.Marks["says"]; !strings.Contains(s.said.String(), says) {
		s.t.Errorf("%s: nothing says %q:\n%s", s.at, says, s.said.String())
	}
}

var (
	idPattern     = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	statusPattern = regexp.MustCompile(`\bstatus (\d+)`)
)

// meaning finds what a word stands for here. What is not a word of its own stands for itself.
func (s *stage) meaning(name, value string) string {
	switch value {
	case "operator":
		s.do("bob", strings.Fields("shorebird send postmaster@example.org --server mail.example.org:25 --from bob@example.org --no-copy"), cmtptest.Line{In: "text"})
		return s.last("--operator")
	case "newest":
		return s.last("alice@example.org")
	case "queued":
		s.stop()
		id, err := enqueueIn(s.data(), "example.net", 100)
		s.must(err)
		s.start()
		return fmt.Sprint(id)
	case "held":
		if name == "KEY" {
			return trust.Public{PublicKey: numbered(2)}.Base64()
		}
		s.stop()
		for n := range 2 {
			_, err := meetIn(s.data(), "example.net", n+1)
			s.must(err)
		}
		s.start()
		return numbered(2).String()
	}
	return value
}

// last returns the number of the newest message.
func (s *stage) last(flags ...string) string {
	before := s.said.Len()
	s.do("cmtpd", append([]string{"cmtpd", "spool", "list"}, flags...), cmtptest.Line{})
	ids := idPattern.FindAllString(s.said.String()[before:], -1)
	if len(ids) == 0 {
		s.t.Fatalf("%s: there is no message:\n%s", s.at, s.said.String())
	}
	return ids[len(ids)-1]
}

func (s *stage) data() string { return filepath.Join(s.dir, "var/lib/cmtpd") }

// flip changes a bit of the newest record of the log.
func (s *stage) flip() {
	logs, err := filepath.Glob(filepath.Join(s.data(), "spool/log/*.seg"))
	s.must(err)
	b, err := os.ReadFile(logs[0])
	s.must(err)
	b[800] ^= 0x10
	f, err := os.OpenFile(logs[0], os.O_WRONLY, 0)
	s.must(err)
	_, err = f.WriteAt(b[800:801], 800)
	s.must(errors.Join(err, f.Close()))
}

// inside makes a command that a person gives in the machine.
func (s *stage) inside(person string, words ...string) *exec.Cmd {
	args := []string{"--target", s.pid, "--mount", "--net", "sh", "-c", `cd ` + work + ` && exec "$@"`, "sh"}
	home := "/home/" + person
	if person == "cmtpd" {
		home = "/var/lib/cmtpd"
		args = append(args, "setpriv", "--reuid=cmtpd", "--regid=cmtpd", "--clear-groups", "--")
	}
	cmd := exec.Command("nsenter", append(args, words...)...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "SHOREBIRD_NO_KEYRING=1",
		"SHOREBIRD_PASSWORD_FILE=" + work + "/password", "SHOREBIRD_CODE_FILE=" + work + "/code"}
	return cmd
}

// do does one command.
func (s *stage) do(person string, words []string, l cmtptest.Line) {
	fmt.Fprintf(&s.said, "%s$ %s\n", person, strings.Join(words, " "))
	call := strings.Join(words[:min(3, len(words))], " ")
	switch {
	case words[0] == "systemctl":
		s.systemctl(words[1:])
		return
	case call == "cmtpd serve":
		s.stop()
		s.start()
		return
	case answers[call] != nil:
		s.answer(person, words, answers[call])
		return
	}
	cmd := s.inside(person, words...)
	if l.In != "" {
		in, err := os.Open(filepath.Join(s.dir, "srv", l.In))
		s.must(err)
		defer in.Close()
		cmd.Stdin = in
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	s.said.Write(out)
	s.said.WriteString(errs.String())
	want := 0
	if m := statusPattern.FindStringSubmatch(l.Comment); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != want {
		s.t.Fatalf("%s: %s ends with %v, want %d:\n%s", s.at, strings.Join(words, " "), err, want, s.said.String())
	}
	if call == "cmtpd user invite" {
		s.write("srv/code", string(out))
	}
}

// answers are what a person types at commands that ask: a question, and the answer.
var answers = map[string][][2]string{
	"cmtpd user add":     {{"New password for %s: ", password}, {againPrompt, password}},
	"cmtpd user passwd":  {{"Present password of %s: ", password}, {"New password for %s: ", "another"}, {againPrompt, "another"}},
	"cmtpd user remove":  {{"Forget it? [y/N] ", "y"}},
	"cmtpd spool remove": {{"? [y/N] ", "y"}},
	"cmtpd spool repair": {{"? [y/N] ", "y"}},
	"cmtpd queue drop":   {{"? [y/N] ", "y"}},
}

func (s *stage) answer(person string, words []string, all [][2]string) {
	cmd := s.inside(person, words...)
	term := cmtptest.RunInTerminal(s.t, nil, "env", slices.Concat([]string{"-i"}, cmd.Env, cmd.Args)...)
	for _, a := range all {
		question := strings.ReplaceAll(a[0], "%s", words[len(words)-1])
		if strings.Contains(question, "y/N") {
			term.Shows(s.t, regexp.MustCompile(regexp.QuoteMeta(question)+"$"))
			term.Type(s.t, a[1]+"\n")
		} else {
			term.Answer(s.t, question, a[1])
		}
	}
	status, shown := term.Ends(s.t)
	s.said.WriteString(shown)
	if status != 0 {
		s.t.Fatalf("%s: %q ends with %d:\n%s", s.at, words, status, s.said.String())
	}
}

// systemctl is what systemd would do.
func (s *stage) systemctl(args []string) {
	switch args[0] {
	case "start", "enable":
		s.start()
	case "stop":
		if !slices.Contains(args, "cmtpd.socket") {
			s.t.Errorf("%s: the next client starts cmtpd again where its socket is not stopped", s.at)
		}
		s.stop()
	case "restart":
		s.stop()
		s.start()
	case "reload":
		s.must(unix.Kill(s.daemon.PID, unix.SIGHUP))
		s.daemon.Line(s.t, "the configuration was reloaded")
	case "status", "daemon-reload":
	default:
		s.t.Fatalf("%s: nobody plays systemctl %s", s.at, args[0])
	}
}

// serve is how cmtpd is started: by hand, or, once there is a unit, as it says, with a right in the place of the socket.
func (s *stage) serve() *exec.Cmd {
	b, err := os.ReadFile(filepath.Join(s.dir, "etc/systemd/system/cmtpd.service"))
	if err != nil {
		return s.inside("cmtpd", "cmtpd", "serve")
	}
	m := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindSubmatch(b)
	right := []string{"--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"}
	return s.inside("root", slices.Concat([]string{"setpriv", "--reuid=cmtpd", "--regid=cmtpd", "--clear-groups"}, right, []string{"--"}, strings.Fields(string(m[1])))...)
}

func (s *stage) start() {
	if s.daemon != nil {
		return
	}
	if out, err := s.inside("root", "chown", "-R", "cmtpd:cmtpd", "/var/lib/cmtpd").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out) // what the test itself has put there
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	d, err := cmtptest.LaunchCommand(ctx, s.serve())
	s.must(err)
	s.daemon = d
	s.t.Cleanup(func() { d.Bury(s.t) })
}

func (s *stage) stop() {
	if s.daemon == nil {
		return
	}
	s.daemon.Stop(s.t)
	s.daemon = nil
}

// after looks at what the story has left.
func (s *stage) after() {
	if got := <-s.mail; !strings.HasPrefix(got, "postmaster@example.org from 127.0.0.1:") {
		s.t.Errorf("the mail server behind got mail to %s", got)
	}
	// After bob's own, and the one of open --save.
	saved, err := os.ReadFile(filepath.Join(s.dir, "srv/report (3).pdf"))
	if err != nil || string(saved) != "%PDF-1.7, nearly\n" {
		s.t.Errorf("alice has saved %q, %v", saved, err)
	}
	for _, unit := range []string{"cmtpd.service", "cmtpd.socket"} {
		_, err := os.Stat(filepath.Join(s.dir, "etc/systemd/system", unit))
		s.must(err)
	}
}
