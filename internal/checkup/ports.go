package checkup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/control"
	"cmtpd/internal/identity"
)

const (
	// portTime bounds the meeting with the daemon on one of its addresses.
	portTime = 5 * time.Second
	// silence is how long an address without a greeting is listened to.
	silence = 250 * time.Millisecond
)

// ports meets the running daemon as strangers do; without one it looks who has its addresses.
func (c *checkup) ports(ctx context.Context) (found []Finding) {
	switch {
	case c.barred, c.silent:
		return nil // whose they are is not known
	case c.running == nil:
		return c.taken(ctx)
	}
	s, err := identity.Read(c.cfg)
	if err != nil {
		return nil // said already
	}
	l := c.listeners()
	for _, a := range l.Shared {
		found = append(found, c.meet(ctx, a, portTime, s)...)
	}
	for _, a := range l.CMTPOnly {
		found = append(found, c.meet(ctx, a, silence, s)...)
	}
	return append(found, c.unopened(l)...)
}

// listeners returns where the daemon says that it listens, or should where it does not say.
func (c *checkup) listeners() control.Listeners {
	if l, err := control.Dial(c.cfg.ControlSocket()).Listeners(); err == nil {
		return l
	}
	return control.Listeners{Shared: c.cfg.Listen.Addresses, CMTPOnly: c.cfg.Listen.CMTPOnly}
}

// unopened notes of which configured ports the daemon has none: a service manager's sockets took their place, or it
// was not restarted.
func (c *checkup) unopened(l control.Listeners) []Finding {
	open := make(map[string]bool)
	for _, a := range slices.Concat(l.Shared, l.CMTPOnly) {
		_, port, _ := net.SplitHostPort(a)
		open[port] = true
	}
	var none []string
	for _, a := range slices.Concat(c.cfg.Listen.Addresses, c.cfg.Listen.CMTPOnly) {
		if _, port, err := net.SplitHostPort(a); err == nil && port != "0" && !open[port] {
			none = append(none, a)
		}
	}
	if len(none) == 0 {
		return nil
	}
	return []Finding{{Note: true, Text: fmt.Sprintf("the daemon listens at %s, and not at %s, which is configured", some(slices.Concat(l.Shared, l.CMTPOnly)), some(none)),
		Remedy: "where systemd opens the sockets, let ListenStream= of cmtpd.socket say the same as listen.addresses; else restart the daemon"}}
}

// meet connects to an address of the daemon's, waits for its greeting, and compares the key that it shows.
func (c *checkup) meet(ctx context.Context, configured string, greeting time.Duration, s *identity.State) []Finding {
	address, ok := c.reachable(configured)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	_, ch, err := (&client.Dialer{Timeout: portTime, GreetingWait: greeting}).Open(ctx, address, true)
	var turnedAway *client.GreetingError
	switch {
	case errors.As(err, &turnedAway) && turnedAway.Temporary():
		return note(fmt.Sprintf("%s takes no more connections from here for now: %v", configured, err))
	case err != nil:
		return problem(fmt.Sprintf("a daemon runs, and is not met at %s: %v", configured, err),
			"look whether another program has the port (ss -ltnp), whether a packet filter stops the loopback interface, and whether the daemon was restarted since listen was changed")
	}
	defer ch.Close()
	if key := ch.ServerKey(); key != s.Live {
		return problem(fmt.Sprintf("at %s the key %s is shown, and server.key is %s", configured, key, s.Live),
			"restart the daemon; if the key is unknown to you, another server has the port")
	}
	return nil
}

// reachable returns how a configured address is reached from this machine. It is not ok where it cannot be: a port
// that the system chose, or an address at which a PROXY header is asked of this machine.
func (c *checkup) reachable(configured string) (string, bool) {
	host, port, err := net.SplitHostPort(configured)
	if err != nil || port == "0" {
		return "", false
	}
	ip, err := netip.ParseAddr(host)
	if host == "" || err == nil && ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if host == "::" {
			ip = netip.IPv6Loopback()
		}
		host = ip.String()
	}
	if slices.ContainsFunc(c.cfg.Listen.ProxyFrom, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// taken finds addresses that the next start would find in use.
func (c *checkup) taken(ctx context.Context) (found []Finding) {
	for _, a := range slices.Concat(c.cfg.Listen.Addresses, c.cfg.Listen.CMTPOnly) {
		if errors.Is(bind(a), syscall.EADDRINUSE) {
			found = append(found, inUse(ctx, a))
		}
	}
	return found
}

func inUse(ctx context.Context, address string) Finding {
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	if exec.CommandContext(ctx, "systemctl", "is-active", "--quiet", "cmtpd.socket").Run() == nil {
		return Finding{Note: true, Text: address + " is open, since systemd's cmtpd.socket is: the first client starts the daemon"}
	}
	return Finding{Text: address + " is taken, and not by a daemon that answers here: cmtpd will not start",
		Remedy: "see by which program (ss -ltnp); another mail server has to move to another port (cmtpd init says how), and smtp.backend to name that; " +
			"a cmtpd of this server's has lost its control socket: stop it"}
}

// bind takes an address and gives it back. It does not listen, so no client and no other program that starts now
// notices.
func bind(address string) error {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	family, to := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: tcp.Port})
	if v4 := tcp.IP.To4(); v4 != nil {
		family, to = syscall.AF_INET, &syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(v4)}
	} else if tcp.IP != nil {
		to = &syscall.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(tcp.IP.To16())}
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil { // as Go's listeners
		return err
	}
	return syscall.Bind(fd, to)
}
