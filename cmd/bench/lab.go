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
	ctx     context.Context
	bin     string
	dir     string
	rounds  int
	procs   []*exec.Cmd
	ends    []func() error
	serials atomic.Uint64
}

// atEnd has f called when the lab is closed.
func (l *lab) atEnd(f func() error) { l.ends = append(l.ends, f) }

// serial returns a number that no other caller gets.
func (l *lab) serial() uint64 { return l.serials.Add(1) }

func newLab(ctx context.Context, bin string, rounds int) (*lab, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cmtpd-bench-")
	return &lab{ctx: ctx, bin: bin, dir: dir, rounds: rounds}, err
}

func (l *lab) close() (err error) {
	for _, end := range l.ends {
		err = errors.Join(err, end())
	}
	for _, p := range l.procs {
		p.Process.Signal(syscall.SIGTERM) // one that has ended already is fine
		p.Wait()
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
		c, err := net.DialTimeout("tcp", addr, time.Second)
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
	me, err := os.Executable()
	if err != nil {
		return "", err
	}
	addr, err = freePort()
	if err == nil {
		_, err = l.start(addr, me, "-role", role, addr)
	}
	return addr, err
}

// cmtpd starts a daemon with one user, alice@bench.example; extra is TOML.
func (l *lab) cmtpd(maxConns int, extra string) (addr string, cmd *exec.Cmd, err error) {
	addr, err = freePort()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "cmtpd-")
	if err != nil {
		return "", nil, err
	}
	conf := filepath.Join(dir, "cmtpd.toml")
	text := fmt.Sprintf("hostname = \"mail.bench.example\"\ndomains = [\"bench.example\"]\ndata_dir = \"data\"\n[listen]\naddresses = [%q]\n"+
		"[limits]\nmax_connections = %d\nmax_connections_per_address = %[2]d\nmin_free_space = \"1MiB\"\n[log]\nlevel = \"warn\"\n%s", addr, maxConns, extra)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	daemon := filepath.Join(l.bin, "cmtpd")
	add := exec.Command(daemon, "user", "add", "alice@bench.example", "--password-stdin", "--config", conf)
	add.Stdin = strings.NewReader("benchmark\n")
	if out, err := add.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("adding a user: %w\n%s", err, out)
	}
	cmd, err = l.start(addr, daemon, "serve", "--config", conf)
	return addr, cmd, err
}

// freePort returns an address that nobody listens on, with a port below those
// that the kernel gives to connections: a load leaves thousands of those behind
// that cannot be listened on for a minute.
func freePort() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
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

// greeted connects and reads the SMTP greeting, and not a byte more.
func greeted(addr string, from ...net.IP) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	for _, ip := range from {
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	c, err := d.Dial("tcp", addr)
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
