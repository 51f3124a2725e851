package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A lab is a temporary folder and the processes that run in it.
type lab struct {
	ctx      context.Context
	bin      string
	dir      string
	rounds   int
	messages int           // of the large spool
	mail     int           // messages of the large mailbox
	queued   int           // of the long queue
	trip     time.Duration // of the link
	procs    []*exec.Cmd
	ends     []func() error
	serials  atomic.Uint64
}

// atEnd has f called when the lab is closed.
func (l *lab) atEnd(f func() error) { l.ends = append(l.ends, f) }

// serial returns a number that no other caller gets.
func (l *lab) serial() uint64 { return l.serials.Add(1) }

func newLab(ctx context.Context, bin string, rounds, messages, mail, queued int) (*lab, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cmtpd-bench-")
	return &lab{ctx: ctx, bin: bin, dir: dir, rounds: rounds, messages: messages, mail: mail, queued: queued}, err
}

func (l *lab) close() (err error) {
	for _, p := range l.procs {
		p.Process.Signal(syscall.SIGTERM) // one that has ended already is fine
		p.Wait()
	}
	for _, end := range l.ends {
		err = errors.Join(err, end())
	}
	return errors.Join(err, os.RemoveAll(l.dir))
}

// start starts a peer that serves addr, and returns once it takes connections.
func (l *lab) start(addr, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l.procs = append(l.procs, cmd)
	if err := awaitPort(addr); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", name, err, errs.String())
	}
	return cmd, nil
}

// awaitPort waits until addr takes connections: the only sign that a foreign
// program gives when it is ready.
func awaitPort(addr string) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := dialTCP(context.Background(), net.Dialer{Timeout: time.Second}, addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) || !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("nobody serves %s: %w", addr, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// self starts this program in another role.
func (l *lab) self(role string) (addr string, err error) {
	addr, err = freePort()
	if err == nil {
		err = l.selfAt(addr, role)
	}
	return addr, err
}

// selfAt is self at an address, through a program that runs another one if one is given.
func (l *lab) selfAt(addr, role string, through ...string) error {
	me, err := os.Executable()
	if err == nil {
		args := append(through, me, "-role", role, addr)
		_, err = l.start(addr, args[0], args[1:]...)
	}
	return err
}

// cmtpd starts a daemon with one user, alice@bench.example; extra is TOML
// that begins among the limits.
func (l *lab) cmtpd(maxConns int, extra string) (addr string, cmd *exec.Cmd, err error) {
	s, err := l.site(maxConns, extra)
	if err != nil {
		return "", nil, err
	}
	cmd, err = s.serve()
	return s.addr, cmd, err
}

const password = "benchmark" // alice's

// A site is what daemons serve one after the other: a configuration and its data.
type site struct {
	*lab
	domain string
	addr   string
	conf   string
	data   string
}

func (l *lab) site(maxConns int, extra string) (*site, error) {
	return l.siteOf("bench.example", "127.0.0.1", maxConns, extra)
}

// siteOf makes a site of a domain, on a loopback address.
func (l *lab) siteOf(domain, host string, maxConns int, extra string) (*site, error) {
	addr, err := freePortOf(host)
	if err != nil {
		return nil, err
	}
	return l.siteAt(domain, addr, maxConns, extra)
}

// siteAt makes a site of a domain, at any address.
func (l *lab) siteAt(domain, addr string, maxConns int, extra string) (*site, error) {
	dir, err := os.MkdirTemp(l.dir, "cmtpd-")
	if err != nil {
		return nil, err
	}
	s := &site{lab: l, domain: domain, addr: addr, conf: filepath.Join(dir, "cmtpd.toml"), data: filepath.Join(dir, "data")}
	text := fmt.Sprintf("hostname = \"mail.%s\"\ndomains = [%[1]q]\ndata_dir = \"data\"\n[listen]\naddresses = [%[2]q]\n"+
		"[log]\nlevel = \"warn\"\n[limits]\nmax_connections = %[3]d\nmax_connections_per_address = %[3]d\nmin_free_space = \"1MiB\"\n"+
		"connection_rate = 1048576\nconnection_burst = 1048576\nstarttls_rate = 1048576\nstarttls_burst = 1048576\n"+
		"mail_rate = 1048576\nmail_burst = 1048576\nmail_per_day = \"1024TiB\"\nlookup_rate = 1048576\nlookup_burst = 1048576\n"+
		"new_domains_rate = 1048576\nnew_domains_burst = 1048576\n%[4]s", domain, addr, maxConns, extra)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	add := s.command("user", "add", "alice@"+domain, "--password-stdin", "--version-2")
	add.Stdin = strings.NewReader(password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("adding a user: %w\n%s", err, out)
	}
	return s, nil
}

func (s *site) command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(s.bin, "cmtpd"), append(args, "--config", s.conf)...)
}

// serve starts a daemon, through a program that runs another one if one is given.
func (s *site) serve(through ...string) (*exec.Cmd, error) {
	args := append(through, s.command("serve").Args...)
	return s.start(s.addr, args[0], args[1:]...)
}

// end ends a process that start has started, and waits until it is gone.
func end(cmd *exec.Cmd, signal os.Signal) error {
	if err := cmd.Process.Signal(signal); err != nil {
		return err
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && signal == os.Kill {
		return nil
	}
	return err
}

// freePort returns an address that nobody listens on, with a port below those
// that the kernel gives to connections: a load leaves thousands of those behind
// that cannot be listened on for a minute.
func freePort() (string, error) { return freePortOf("127.0.0.1") }

// freePortOf is freePort on another loopback address.
func freePortOf(host string) (string, error) {
	for range 100 {
		addr := fmt.Sprintf("%s:%d", host, 15000+rand.IntN(15000))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port")
}

// each runs every cell once a round, beginning with another one each time.
func (l *lab) each(cells int, measure func(cell int) (float64, error)) ([]series, error) {
	all := make([]series, cells)
	for round := range l.rounds {
		for i := range cells {
			cell := (round + i) % cells
			if err := l.ctx.Err(); err != nil {
				return nil, err
			}
			v, err := measure(cell)
			if err != nil {
				return nil, err
			}
			all[cell] = append(all[cell], v)
		}
	}
	return all, nil
}

// dial connects, from an address of this host if one is given.
func dial(addr string, from ...net.IP) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	for _, ip := range from {
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return dialTCP(context.Background(), d, addr)
}

// greeted connects and reads the SMTP greeting, and not a byte more.
func greeted(addr string, from ...net.IP) (net.Conn, error) {
	c, err := dial(addr, from...)
	if err != nil {
		return nil, err
	}
	for b := make([]byte, 1); b[0] != '\n'; {
		if _, err := c.Read(b); err != nil {
			return nil, errors.Join(fmt.Errorf("reading a greeting: %w", err), c.Close())
		}
	}
	return c, nil
}
