package front

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cmtpd/internal/limit"
	"cmtpd/internal/sockfilter"
)

// A bar keeps clients out who connect again without waiting to be refused: for a while the kernel drops what they send
// to the listeners, or, where it does not do that for us, their connections are closed as cheaply as can be. Nobody who is
// connected notices. A client behind a load balancer cannot be told from others there,
// so it is never barred, nor is who has their network in common with one.
type bar struct {
	log  *slog.Logger
	told *tally
	drop func(net.Listener, []netip.Prefix) error
	any  atomic.Bool // somebody is barred

	mu        sync.Mutex // guards all below
	listeners map[net.Listener]struct{}
	until     map[netip.Prefix]time.Time // by limit.Prefix, MaxNetworks at most
	timer     *time.Timer                // until the first of them ends
	total     uint64
	shut      uint64 // connections of the barred that were closed
	dropped   uint64 // at listeners that are no more
	failed    bool   // to drop at some listener, which the log knows
	closed    bool
}

func newBar(log *slog.Logger) *bar {
	return &bar{log: log, drop: dropAt, told: newTally(log, slog.LevelWarn, "clients were barred", "barred"),
		listeners: make(map[net.Listener]struct{}), until: make(map[netip.Prefix]time.Time)}
}

// dropAt is sockfilter.Drop for whatever listens.
func dropAt(l net.Listener, networks []netip.Prefix) error {
	c, ok := l.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	return sockfilter.Drop(c, networks)
}

// add has a listener hear nothing of who is barred. What a program before this one has left there, ends.
func (b *bar) add(l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.listeners[l] = struct{}{}
	b.apply(l)
}

// remove takes a listener back, which hears everybody again: if its socket is the service manager's, it lives on.
func (b *bar) remove(l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(l)
}

// forget is remove. Under mu.
func (b *bar) forget(l net.Listener) {
	if _, ok := b.listeners[l]; !ok {
		return
	}
	delete(b.listeners, l)
	b.dropped += dropped(l)
	if err := b.drop(l, nil); err != nil && !errors.Is(err, net.ErrClosed) {
		b.complain(l, err)
	}
}

// stop opens all listeners to everybody, and bars nobody any more.
func (b *bar) stop() {
	b.mu.Lock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	for l := range b.listeners {
		b.forget(l)
	}
	clear(b.until)
	b.any.Store(false)
	b.mu.Unlock()
	b.told.stop()
}

// put bars a client for a time, unless as many are barred as can be.
func (b *bar) put(who netip.AddrPort, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	network := limit.Prefix(who.Addr())
	_, there := b.until[network]
	if !network.IsValid() || there || b.closed || len(b.until) == sockfilter.MaxNetworks {
		return
	}
	b.until[network] = time.Now().Add(d)
	b.total++
	b.told.add(0, who)
	b.applyAll()
}

// has says whether a client is barred: then it was in the queue of a listener before.
func (b *bar) has(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.until) == 0 {
		return false
	}
	_, there := b.until[limit.Prefix(a)]
	return there
}

// due lets those in whose time is over.
func (b *bar) due() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.timer = nil
	now := time.Now()
	for n, until := range b.until {
		if !until.After(now) {
			delete(b.until, n)
		}
	}
	b.applyAll()
}

// applyAll has every listener know who is barred, and waits for the first whose time is over. Under mu.
func (b *bar) applyAll() {
	b.any.Store(len(b.until) > 0)
	for l := range b.listeners {
		b.apply(l)
	}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	var first time.Time
	for _, until := range b.until {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	if !first.IsZero() {
		b.timer = time.AfterFunc(time.Until(first), b.due)
	}
}

// apply has one listener know who is barred. Under mu.
func (b *bar) apply(l net.Listener) {
	networks := make([]netip.Prefix, 0, len(b.until))
	for n := range b.until {
		networks = append(networks, n)
	}
	err := b.drop(l, networks)
	if err != nil && !errors.Is(err, net.ErrClosed) && len(networks) > 0 {
		b.complain(l, err)
	}
}

// accept returns the next connection at l.
func (b *bar) accept(l net.Listener) (net.Conn, error) {
	if b.any.Load() {
		if nc, err := b.sift(l); nc != nil || err != nil {
			return nc, err
		}
	}
	return l.Accept()
}

// count adds connections of the barred that were closed.
func (b *bar) count(n uint64) {
	if n > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.shut += n
	}
}

// complain says once that somebody cannot be dropped. Under mu.
func (b *bar) complain(l net.Listener, err error) {
	if !b.failed {
		b.failed = true
		b.log.Warn("the kernel does not drop a flood's packets", "listener", l.Addr().String(), "err", err)
	}
}

// show sets what is known of a bar in stats.
func (b *bar) show(stats *Stats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	stats.Barred, stats.BarredTotal, stats.RefusedFlood, stats.Dropped = len(b.until), b.total, b.shut, b.dropped
	stats.Accepted += b.shut
	for l := range b.listeners {
		stats.Dropped += dropped(l)
	}
}

// dropped counts the packets that were dropped at l, none where that cannot be known.
func dropped(l net.Listener) uint64 {
	c, ok := l.(syscall.Conn)
	if !ok {
		return 0
	}
	n, err := sockfilter.Dropped(c)
	if err != nil {
		return 0
	}
	return uint64(n)
}
