package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/service"
)

// The names of sockets that a service manager may open: the keys of [listen] that they
// stand for.
const (
	SharedSockets   = "addresses"
	CMTPOnlySockets = "cmtp_only"
)

// withSockets returns c as it is with the sockets of the service manager: a list that
// it has opened any sockets for is what they are, whatever the file says.
func withSockets(c *config.Config, m *service.Manager) *config.Config {
	with := *c
	for name, list := range map[string]*[]string{SharedSockets: &with.Listen.Addresses, CMTPOnlySockets: &with.Listen.CMTPOnly} {
		if sockets := m.Named(name); sockets != nil {
			*list = addresses(sockets)
		}
	}
	return &with
}

func addresses(listeners []net.Listener) (all []string) {
	for _, l := range listeners {
		all = append(all, l.Addr().String())
	}
	return all
}

// tellSockets has the log say where the sockets of the service manager are not those of
// the file, which nobody listens on then.
func (d *daemon) tellSockets(written *config.Config) {
	for _, list := range []struct {
		name     string
		file, in []string
	}{
		{SharedSockets, written.Listen.Addresses, d.cfg.Listen.Addresses},
		{CMTPOnlySockets, written.Listen.CMTPOnly, d.cfg.Listen.CMTPOnly},
	} {
		if d.options.Manager.Named(list.name) != nil && !slices.Equal(plain(list.file), plain(list.in)) {
			d.log.Warn("the service manager's sockets take the place of what is configured", "key", "listen."+list.name,
				"configured", strings.Join(list.file, ", "), "sockets", strings.Join(list.in, ", "))
		}
	}
}

// plain returns addresses in one spelling and order: that of every address is the same
// with and without a host.
func plain(list []string) (all []string) {
	for _, a := range list {
		if at, err := netip.ParseAddrPort(a); err == nil && at.Addr() == netip.IPv6Unspecified() {
			a = fmt.Sprintf(":%d", at.Port())
		}
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}

// listenMail takes the service manager's sockets, and opens those that it has not.
func (d *daemon) listenMail(ctx context.Context) (addrs []net.Addr, err error) {
	for _, list := range []struct {
		name  string
		file  []string
		alone bool
	}{{SharedSockets, d.cfg.Listen.Addresses, false}, {CMTPOnlySockets, d.cfg.Listen.CMTPOnly, true}} {
		var open []net.Listener
		if sockets := d.options.Manager.Named(list.name); sockets != nil {
			open, err = adopt(sockets)
		} else {
			open, err = listenAll(ctx, list.file)
		}
		d.listens = append(d.listens, open...)
		if err != nil {
			return nil, err
		}
		for _, l := range open {
			if list.alone {
				d.listening.CMTPOnly = append(d.listening.CMTPOnly, l.Addr().String())
			} else {
				d.listening.Shared = append(d.listening.Shared, l.Addr().String())
				addrs = append(addrs, l.Addr())
			}
			d.log.Info("listening", "address", l.Addr().String(), "cmtp_only", list.alone)
			d.serving = append(d.serving, func(ctx context.Context) error { return d.front.Serve(ctx, l, list.alone) })
		}
	}
	return addrs, nil
}

func adopt(sockets []net.Listener) (open []net.Listener, err error) {
	for _, s := range sockets {
		l, unfit := front.Adopt(s)
		if unfit != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", service.ErrSockets, unfit))
			continue
		}
		open = append(open, l)
	}
	return open, err
}

func listenAll(ctx context.Context, all []string) (open []net.Listener, err error) {
	for _, address := range all {
		l, failed := front.Listen(ctx, address)
		switch {
		case errors.Is(failed, syscall.EACCES):
			failed = fmt.Errorf("%w; ports below 1024 need a service manager that opens them (configs/cmtpd.socket), the capability CAP_NET_BIND_SERVICE, or root", failed)
		case errors.Is(failed, syscall.EADDRINUSE):
			failed = fmt.Errorf("%w; if it is the mail server's, move that to another one (smtp.backend)", failed)
		}
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		open = append(open, l)
	}
	return open, err
}

// serveHTTP returns a function that serves l until its context ends.
func serveHTTP(srv *http.Server, l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() {
			grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if srv.Shutdown(grace) != nil {
				srv.Close()
			}
		})
		defer stop()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
