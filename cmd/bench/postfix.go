package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A postfix is a mail server that keeps everything it accepts in its hold queue
// and logs to nowhere: what it does is accept durably, in its most favourable
// form. Unless it is told to let go of it, nothing more becomes of a message.
type postfix struct {
	addr string
	dir  string
}

func (l *lab) postfix() (*postfix, error) { return l.postfixWith("") }

// postfixWith starts a mail server with more settings, which override the usual ones.
func (l *lab) postfixWith(settings string) (*postfix, error) {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	p := &postfix{dir: filepath.Join(l.dir, fmt.Sprintf("postfix%d", l.serial()))}
	if p.addr, err = freePort(); err != nil {
		return nil, err
	}
	for _, d := range []string{"", "etc", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(p.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chown(filepath.Join(p.dir, "data"), uid, -1); err != nil {
		return nil, err
	}
	vars := strings.NewReplacer("DIR", p.dir, "ADDR", p.addr)
	for name, text := range map[string]string{"main.cf": postfixMain + settings, "master.cf": postfixMaster} {
		if err := os.WriteFile(filepath.Join(p.dir, "etc", name), []byte(vars.Replace(text)), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(l.dir, 0o755); err != nil { // smtpd runs as another user
		return nil, err
	}
	if err := p.run("start"); err != nil {
		return nil, err
	}
	l.atEnd(func() error { return p.run("stop") })
	return p, awaitPort(p.addr)
}

func (p *postfix) run(verb string) error { return p.tool("postfix", verb) }

// tool runs one of Postfix' programs on this mail server.
func (p *postfix) tool(name string, args ...string) error {
	cmd := exec.Command(name, append([]string{"-c", filepath.Join(p.dir, "etc")}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return nil
}

// master returns the pid of Postfix' master process.
func (p *postfix) master() (int, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "queue/pid/master.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// relayed has the mail server hand messages on to another one, and returns how many a second
// reach that one's hold queue. They are all there before any may leave.
func (p *postfix) relayed(l *lab, to *postfix, messages int) (float64, error) {
	if _, err := smtpSource(20, messages, 4096, "-d")(p.addr); err != nil {
		return 0, err
	}
	before, err := to.held()
	if err != nil {
		return 0, err
	}
	if err := p.tool("postsuper", "-H", "ALL"); err != nil { // into the deferred queue
		return 0, err
	}
	start := time.Now()
	if err := p.tool("postqueue", "-f"); err != nil {
		return 0, err
	}
	err = l.await("Postfix to relay", func() (bool, error) {
		n, err := to.held()
		return n >= before+messages, err
	})
	took := time.Since(start)
	return float64(messages) / took.Seconds(), errors.Join(err, to.tool("postsuper", "-d", "ALL", "hold"))
}

// held counts what is in the hold queue.
func (p *postfix) held() (int, error) {
	list, err := os.ReadDir(filepath.Join(p.dir, "queue/hold"))
	return len(list), err
}

// bracketed returns host:port as Postfix writes where to relay to.
func bracketed(addr string) string {
	host, port, _ := strings.Cut(addr, ":")
	return "[" + host + "]:" + port
}

const postfixMain = `compatibility_level = 3.6
queue_directory = DIR/queue
data_directory = DIR/data
maillog_file = /dev/null
maillog_file_prefixes = /dev
myhostname = mail.bench.example
mydestination = bench.example
local_recipient_maps =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
smtpd_recipient_restrictions = static:HOLD
smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination
smtpd_client_connection_count_limit = 0
default_process_limit = 100
`

const postfixMaster = `ADDR inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
smtp unix - - n - - smtp
relay unix - - n - - smtp
scache unix - - n - 1 scache
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`
