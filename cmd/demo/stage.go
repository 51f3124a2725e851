package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A stage is the temporary folder with the server in it and the programs that
// play on it.
type stage struct {
	ctx  context.Context
	bin  string
	dir  string
	port string // host:port that cmtpd serves

	domain string
	names  *names // the DNS of all stages
	far    *stage // another domain's server
	conf   string
	file   string // what Alice attaches: a real file

	code     string // of the invitation to it
	password string // that its person types
	words    string // on Dora's paper

	quiet bool // nothing is said

	daemon *exec.Cmd
	logs   chan string // everything the daemon logged, when it has ended
}

// newStage makes the folder of a server for a domain. Without a mail server behind it
// refuses SMTP.
func newStage(ctx context.Context, bin, dir, domain string, names *names, backend string) (*stage, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	s := &stage{ctx: ctx, bin: bin, dir: dir, conf: filepath.Join(dir, "cmtpd.toml"), domain: domain, names: names, password: password}
	smtp := `mode = "refuse"`
	if backend != "" {
		smtp = fmt.Sprintf("mode = \"relay\"\nbackend = %q\nproxy_protocol = \"v2\"", backend)
	}
	if s.file, err = filepath.Abs("LICENSE"); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`hostname = "mail.%s"
domains = [%q]
data_dir = "data"

[listen]
addresses = ["127.0.0.1:0"]

[smtp]
%s

[dns]
resolver = %q

[delivery]
loopback = true

[limits]
max_connections = 100
min_free_space = "1MiB"
`, domain, domain, smtp, names.addr)
	return s, os.WriteFile(s.conf, []byte(conf), 0o600)
}

func (s *stage) say(format string, a ...any) {
	if !s.quiet {
		fmt.Printf("   "+format+"\n", a...)
	}
}

func (s *stage) show(output string) {
	for line := range strings.Lines(output) {
		fmt.Print("   | ", strings.TrimRight(line, "\n"), "\n")
	}
}

func (s *stage) expect(output string, wants ...string) error {
	for _, w := range wants {
		if !strings.Contains(output, w) {
			return fmt.Errorf("the output does not show %q:\n%s", w, output)
		}
	}
	return nil
}

// run runs a program to its end and returns what it printed. The command is
// shown as a person would type it.
func (s *stage) run(env []string, stdin, name string, args ...string) (string, error) {
	s.say("$ %s %s", name, strings.ReplaceAll(strings.Join(args, " "), s.dir+"/", ""))
	cmd := exec.CommandContext(s.ctx, filepath.Join(s.bin, name), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (s *stage) cmtpd(stdin string, args ...string) (string, error) {
	return s.run(nil, stdin, "cmtpd", append(args, "--config", s.conf)...)
}

// shorebird runs the client on the machine of who, which has a home of its own, and a file
// with the password, since there is nobody to ask. An argument NAME=VALUE is put into the environment.
func (s *stage) shorebird(machine, stdin string, args ...string) (string, error) {
	home, secret := filepath.Join(s.dir, "home-"+machine), filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(s.password+"\n"), 0o600); err != nil {
		return "", err
	}
	who, _, _ := strings.Cut(machine, "-")
	config := fmt.Sprintf("account = %q\nserver = %q\n", who+"@"+s.domain, s.port)
	if err := os.MkdirAll(filepath.Join(home, "config/shorebird"), 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(home, "config/shorebird/config.toml"), []byte(config), 0o600); err != nil {
		return "", err
	}
	env := []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home + "/config", "XDG_DATA_HOME=" + home + "/data",
		"SHOREBIRD_NO_KEYRING=1", "SHOREBIRD_PASSWORD_FILE=" + secret}
	for len(args) > 0 && strings.Contains(args[len(args)-1], "=") {
		env, args = append(env, args[len(args)-1]), args[:len(args)-1]
	}
	return s.run(env, stdin, "shorebird", args...)
}

// await waits until the spool has a message to an address.
func (s *stage) await(address string) error {
	s.say("waiting until it is in the spool of %s", s.domain)
	s.quiet = true
	defer func() { s.quiet = false }()
	for {
		list, err := s.cmtpd("", "spool", "list")
		if err != nil || strings.Contains(list, "to "+strconv.Quote(address)) {
			return err
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// serving is the line that the daemon logs when everything listens.
var serving = regexp.MustCompile(`msg=serving .*addresses=\[([0-9.:]+)\]`)

// serve starts the daemon and returns once it says that it serves.
func (s *stage) serve() error {
	s.daemon = exec.Command(filepath.Join(s.bin, "cmtpd"), "serve", "--config", s.conf)
	stderr, err := s.daemon.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.daemon.Start(); err != nil {
		return err
	}
	ready, logs := make(chan string, 1), make(chan string, 1)
	s.logs = logs
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			all.WriteString(lines.Text() + "\n")
			if m := serving.FindStringSubmatch(lines.Text()); m != nil {
				ready <- m[1]
			}
		}
		logs <- all.String()
	}()
	select {
	case s.port = <-ready:
		return nil
	case log := <-logs:
		s.logs = nil
		return fmt.Errorf("cmtpd ended: %w\n%s", s.daemon.Wait(), log)
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// stop stops the daemon as systemd would and looks at how it went.
func (s *stage) stop() error {
	if s.logs == nil {
		return nil
	}
	if err := s.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	log := <-s.logs
	s.logs = nil
	if err := s.daemon.Wait(); err != nil {
		return fmt.Errorf("cmtpd: %w\n%s", err, log)
	}
	return nil
}

// search returns the path of a file under the data directory that holds any of
// the needles, or "".
func (s *stage) search(needles ...[]byte) (found string, err error) {
	files := 0
	err = filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for _, n := range needles {
			if bytes.Contains(data, n) {
				found = path
			}
		}
		return err
	})
	if err == nil && files == 0 {
		err = errors.New("there is no file to search")
	}
	return found, err
}
