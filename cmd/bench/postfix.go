package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// A postfix is a mail server that keeps everything it accepts in its hold queue
// and logs to nowhere: what it does is accept durably, in its most favourable
// form.
type postfix struct {
	addr string
	dir  string
}

func (l *lab) postfix() (*postfix, error) {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	p := &postfix{dir: filepath.Join(l.dir, "postfix")}
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
	for name, text := range map[string]string{"main.cf": postfixMain, "master.cf": postfixMaster} {
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

func (p *postfix) run(verb string) error {
	cmd := exec.Command("postfix", "-c", filepath.Join(p.dir, "etc"), verb)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("postfix %s: %w\n%s", verb, err, errs.String())
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
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`
