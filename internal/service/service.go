// Package service is what a daemon and a service manager in the manner of systemd
// tell each other: sockets that the manager has opened, word of what the daemon is
// doing, and a watchdog (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
//
// It guarantees that nothing of this happens where no service manager is, that every
// socket which was handed over has a known use or the daemon does not start, and that
// the watchdog is fed only when every probe has answered since it was fed last.
package service

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
)

// ErrSockets is what FromEnvironment's error wraps where the sockets are not what the
// daemon has a use for: no restart helps.
var ErrSockets = errors.New("the service manager's sockets")

// A Socket is one that the service manager has opened.
type Socket struct {
	Name string // FileDescriptorName=
	net.Listener
}

// A Manager is who has started the daemon. The zero value, and nil, are nobody.
type Manager struct {
	// Notify tells the manager something, as sd_notify does; nil where it does not listen.
	Notify func(state string) error
	// Watchdog is how long the manager waits to be fed before it ends the daemon; 0: for ever.
	Watchdog time.Duration
	// Sockets are in the order in which they were handed over.
	Sockets []Socket
	// Log may be nil for silence.
	Log *slog.Logger
}

// FromEnvironment returns the manager that the environment tells of. It takes over the
// sockets, each of which must listen and have one of the names, and leaves nothing of
// them in the environment. It is called once, before other files are opened.
func FromEnvironment(log *slog.Logger, names ...string) (*Manager, error) {
	m := &Manager{Log: log}
	for i, f := range activation.Files(true) {
		l, err := listener(f)
		f.Close() // l has its own
		if err != nil {
			return nil, fmt.Errorf("%w: number %d (%q) is none that listens: %w", ErrSockets, i+1, f.Name(), err)
		}
		if !slices.Contains(names, f.Name()) {
			return nil, fmt.Errorf("%w: %s has the name %q: set FileDescriptorName= in its socket unit to one of %s",
				ErrSockets, l.Addr(), f.Name(), strings.Join(names, ", "))
		}
		m.Sockets = append(m.Sockets, Socket{f.Name(), l})
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		m.Notify = func(state string) error {
			_, err := sd.SdNotify(false, state)
			return err
		}
	}
	var err error
	if m.Watchdog, err = sd.SdWatchdogEnabled(true); err != nil {
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	return m, nil
}

var errNotListening = errors.New("it does not listen (Accept=yes is not for this daemon)")

// listener makes a listener of a socket that listens already. net.FileListener takes one that does not, too, which would fail only
// once the daemon serves.
func listener(f *os.File) (net.Listener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	listens, failed := 0, error(nil)
	err = raw.Control(func(fd uintptr) {
		listens, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	if listens == 0 {
		return nil, errNotListening
	}
	return net.FileListener(f)
}

// Named returns the sockets of one name.
func (m *Manager) Named(name string) (all []net.Listener) {
	if m == nil {
		return nil
	}
	for _, s := range m.Sockets {
		if s.Name == name {
			all = append(all, s.Listener)
		}
	}
	return all
}

// Status says in a few words what the daemon is doing.
func (m *Manager) Status(text string) { m.tell(status(text)) }

// Ready says that the daemon serves, also after Reloading.
func (m *Manager) Ready(text string) { m.tell(sd.SdNotifyReady + "\n" + status(text)) }

// Reloading says that the configuration is being read anew. Ready has to follow.
func (m *Manager) Reloading() {
	m.tell(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec() + status("reading the configuration anew"))
}

// Stopping says that the daemon ends, and asks for as much time as that may take.
func (m *Manager) Stopping(within time.Duration, text string) {
	m.tell(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d\n%s", sd.SdNotifyStopping, within.Microseconds(), status(text)))
}

// status returns the assignment for one line of text.
func status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

func (m *Manager) tell(state string) {
	if m == nil || m.Notify == nil {
		return
	}
	if err := m.Notify(state); err != nil {
		m.log().Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

func (m *Manager) log() *slog.Logger {
	if m.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return m.Log
}
