package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
)

// A manager stands for systemd: it holds a listening socket open, starts daemons with it,
// and reads what they tell.
type manager struct {
	site   *cmtptest.Site
	addr   string
	socket *os.File
	told   chan string // lines of notices, in their order
	notify string      // path of the socket for them
}

func newManager(t *testing.T, site *cmtptest.Site) *manager {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{site: site, addr: l.Addr().String(), told: make(chan string, 1000), notify: filepath.Join(t.TempDir(), "notify")}
	if m.socket, err = l.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	l.Close() // the file stays
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.socket.Close()
		notices.Close()
	})
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := notices.Read(b)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(b[:n]), "\n") {
				m.told <- line
			}
		}
	}()
	return m
}

// command returns what starts a daemon with the socket. The shell is there to put its own
// number, which is the daemon's then, into the environment.
func (m *manager) command(name string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", m.site.Program, "serve", "--config", m.site.Config)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES="+name, "NOTIFY_SOCKET="+m.notify, "WATCHDOG_USEC=30000000")
	cmd.ExtraFiles = []*os.File{m.socket}
	return cmd
}

func (m *manager) start(t *testing.T) *cmtptest.Daemon {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := cmtptest.LaunchCommand(ctx, m.command("addresses"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Bury(t) })
	return d
}

// await skips notices until one begins with prefix.
func (m *manager) await(t *testing.T, prefix string) {
	t.Helper()
	patience := time.After(time.Minute)
	for {
		select {
		case line := <-m.told:
			if strings.HasPrefix(line, prefix) {
				return
			}
		case <-patience:
			t.Fatalf("it was not told %s", prefix)
		}
	}
}

// A crowd connects again and again, and counts how it was answered.
type crowd struct {
	served, putOff atomic.Int64
	answered       chan struct{} // takes one for each that was served, as long as there is room
	stop           chan struct{}
	all            sync.WaitGroup
	failed         chan error
}

func newCrowd(addr string, n int) *crowd {
	c := &crowd{answered: make(chan struct{}, 1<<10), stop: make(chan struct{}), failed: make(chan error, n)}
	for range n {
		c.all.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				if err := c.visit(addr); err != nil {
					c.failed <- err
					return
				}
			}
		})
	}
	return c
}

func (c *crowd) visit(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err == nil && strings.HasPrefix(line, "220 ") {
		if _, err = io.WriteString(conn, "QUIT\r\n"); err == nil {
			line, err = in.ReadString('\n')
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("after %q: %w", line, err)
	case strings.HasPrefix(line, "521 "):
		c.served.Add(1)
		select {
		case c.answered <- struct{}{}:
		default:
		}
	case strings.HasPrefix(line, "421 4.3.2 "):
		c.putOff.Add(1)
	default:
		return fmt.Errorf("answered %q", line)
	}
	return nil
}

// more waits until n were served since those that are known of.
func (c *crowd) more(t *testing.T, n int) {
	t.Helper()
	for len(c.answered) > 0 {
		<-c.answered
	}
	patience := time.After(time.Minute)
	for range n {
		select {
		case <-c.answered:
		case err := <-c.failed:
			t.Fatal(err)
		case <-patience:
			t.Fatal("nobody is served any more")
		}
	}
}

// TestServe_Restart: a socket that a service manager holds open refuses nobody while the daemon is restarted:
// all who come are answered, by the old one or the new one, and a message on its way is received to its end.
func TestServe_Restart(t *testing.T) {
	t.Parallel()
	m := newManager(t, cmtptest.NewSite(t, nil))
	old := m.start(t)
	m.await(t, "READY=1")
	m.await(t, "WATCHDOG=1")
	old.Line(t, "msg=listening", "address="+m.addr)
	old.Line(t, "level=WARN", "take the place of what is configured", "configured=127.0.0.1:0")

	busy := greeted(t, m.addr)
	busy.send(t, "NOOP\x00"+announce(200)+strings.Repeat("x", 100))
	busy.str(t, version)
	visitors := newCrowd(m.addr, 4)
	visitors.more(t, 50)
	if err := old.Terminate(); err != nil {
		t.Fatal(err)
	}
	m.await(t, "STOPPING=1")
	busy.send(t, strings.Repeat("x", 100))
	busy.success(t)
	old.Ends(t)
	fresh := m.start(t)
	m.await(t, "READY=1")
	visitors.more(t, 50)
	close(visitors.stop)
	visitors.all.Wait()
	select {
	case err := <-visitors.failed:
		t.Error(err)
	default:
	}
	t.Logf("%d were served, %d put off", visitors.served.Load(), visitors.putOff.Load())
	fresh.Stop(t)
}

// TestServe_SocketNames: a socket of a name that means nothing is refused, with a status that nobody restarts on.
func TestServe_SocketNames(t *testing.T) {
	t.Parallel()
	m := newManager(t, cmtptest.NewSite(t, nil))
	out, err := m.command("cmtpd.socket").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 78 {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(string(out), "FileDescriptorName= in its socket unit to one of addresses, cmtp_only") {
		t.Errorf("it says %s", out)
	}
}

// TestServe_SocketNotListening: so is one that does not listen, as of a socket unit with Accept=yes, before anything
// is told to serve.
func TestServe_SocketNotListening(t *testing.T) {
	t.Parallel()
	m := newManager(t, cmtptest.NewSite(t, nil))
	c, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if m.socket, err = c.(*net.TCPConn).File(); err != nil {
		t.Fatal(err)
	}
	defer m.socket.Close()
	out, err := m.command("addresses").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 78 || !strings.Contains(string(out), "it does not listen") {
		t.Errorf("it ended with %v, and says %s", err, out)
	}
}
