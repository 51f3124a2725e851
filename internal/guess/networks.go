package guess

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"cmtpd/internal/durable"
)

// maxNetworks bounds how many networks are told apart at one time, and maxOfSite how many of
// them one site may have: who is routed an IPv6 network of siteBits, which is what a site is
// given, would have all of them alone.
const (
	maxNetworks = 1 << 16
	maxOfSite   = 64
	siteBits    = 48
)

// networks are the allowances of networks, in memory. They are written as a whole, at
// most once a minute: a stranger with many networks would otherwise cost a write of
// all of them, or a file each, for each attempt. A process that is killed so
// forgets up to a minute of what networks were charged, but nothing of what accounts were; and
// those are what bounds the guesses at one user.
type networks struct {
	mu      sync.Mutex
	rate    rate                   // under mu
	whole   map[netip.Prefix]int64 // under mu; the invalid Prefix for all that there was no room for, a site's for all beyond maxOfSite
	sites   map[netip.Prefix]int   // under mu: how many networks of a site are in whole
	others  int64                  // under mu: the time of those that are not in whole
	swept   int64                  // under mu
	changed bool                   // under mu: since the last snapshot
}

// newNetworks returns networks whose rate is still to be set.
func newNetworks() *networks {
	return &networks{whole: make(map[netip.Prefix]int64), sites: make(map[netip.Prefix]int)}
}

// siteOf returns the site that a network is one of many in, or the invalid Prefix.
func siteOf(network netip.Prefix) netip.Prefix {
	if !network.IsValid() || network.Addr().Is4() || network.Bits() <= siteBits {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(network.Addr(), siteBits).Masked()
}

// set notes when a network's allowance is whole. The caller holds mu.
func (t *networks) set(network netip.Prefix, whole int64) {
	if _, known := t.whole[network]; !known {
		if site := siteOf(network); site.IsValid() {
			t.sites[site]++
		}
	}
	t.whole[network] = whole
}

// forget is the end of set. The caller holds mu.
func (t *networks) forget(network netip.Prefix) {
	delete(t.whole, network)
	if site := siteOf(network); site.IsValid() {
		if t.sites[site]--; t.sites[site] <= 0 {
			delete(t.sites, site)
		}
	}
}

// shared returns what a network that is not known shares an allowance with for want of room:
// itself where there is room, the rest of its site, or all the rest. The caller holds mu.
func (t *networks) shared(network netip.Prefix) netip.Prefix {
	if site := siteOf(network); site.IsValid() && t.sites[site] >= maxOfSite {
		network = site
	}
	if _, known := t.whole[network]; !known && len(t.whole) >= maxNetworks {
		network = netip.Prefix{} // more than can be told apart
	}
	return network
}

// find returns whose allowance an attempt from a network is charged on, and when that
// is whole. The caller holds mu.
func (t *networks) find(network netip.Prefix, now int64) (key netip.Prefix, whole int64) {
	if _, known := t.whole[network]; !known && t.shared(network) != network {
		t.sweep(now)
		network = t.shared(network)
	}
	whole, known := t.whole[network]
	if !known {
		t.others = t.rate.bound(t.others, now)
		whole = t.others
	}
	return network, whole
}

// take takes an attempt, or says how long there will be none; without really it only
// says so. A proven network has nothing to do with an allowance that is shared for
// want of room: strangers could keep its user out, and it has one of its own.
func (t *networks) take(network netip.Prefix, now int64, proven, really bool) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, whole := t.find(network, now)
	if proven && key != network {
		return 0
	}
	next, wait := t.rate.take(whole, now)
	if wait > 0 || !really {
		next = t.rate.bound(whole, now) // what was brought nearer has to stay so, or it never comes
	}
	if next != whole {
		t.set(key, next)
		t.changed = true
	}
	return wait
}

// giveBack gives n attempts back to a network that is told apart.
func (t *networks) giveBack(network netip.Prefix, now int64, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if whole, known := t.whole[network]; known && network.IsValid() {
		t.whole[network], t.changed = t.rate.giveBack(whole, now, n), true
	}
}

// sweep forgets the networks whose allowance is whole. It looks at all of them, and so
// not more often than once a minute. The caller holds mu.
func (t *networks) sweep(now int64) {
	if since := now - t.swept; since >= 0 && since < int64(time.Minute) {
		return
	}
	t.swept = now
	for key, whole := range t.whole {
		switch bounded := t.rate.bound(whole, now); {
		case bounded <= now:
			t.forget(key)
		case bounded != whole:
			t.whole[key] = bounded
		}
	}
}

// snapshot returns the file of what has changed since the last one, or nil.
func (t *networks) snapshot(now int64) []byte {
	t.mu.Lock()
	if !t.changed {
		t.mu.Unlock()
		return nil
	}
	t.changed = false
	others := t.others
	var entries []entry
	for key, whole := range t.whole {
		if whole > now {
			entries = append(entries, entry{key, whole})
		}
	}
	t.mu.Unlock()
	return appendTable(nil, others, entries)
}

// keep has the next snapshot written though nothing more may change.
func (t *networks) keep() {
	t.mu.Lock()
	t.changed = true
	t.mu.Unlock()
}

// loadNetworks reads what Close or the last save has written. When that is damaged,
// every network's allowance counts as used up.
func (b *Budget) loadNetworks() error {
	path := filepath.Join(b.dir, networksName)
	data, err := durable.ReadFile(b.fs, path, maxTable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if isPassing(err) {
		return fmt.Errorf("opening the budgets of guesses: %w", err)
	}
	t := b.networks
	var entries []entry
	if err == nil {
		t.others, entries, err = parseTable(data)
	}
	if err != nil {
		b.log.Warn("the file of networks that guessed is damaged: the attempts of all networks count as used up, and come back with time", "file", path, "error", err)
		t.others, t.changed = t.rate.empty(b.now()), true
		b.schedule()
		return nil
	}
	for _, e := range entries {
		t.set(e.network, e.whole)
	}
	return nil
}

// schedule has the networks written in a minute, unless they are to be already.
func (b *Budget) schedule() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.timer != nil {
		return
	}
	b.timer = time.AfterFunc(saveEvery, func() {
		b.mu.Lock()
		b.timer = nil // what changes from here on may miss the snapshot, and asks for the next
		b.mu.Unlock()
		if err := b.save(false); err != nil {
			b.log.Error("the networks that guessed could not be written; a restart may forget what they were charged", "error", err)
			b.schedule()
		}
	})
}

// save writes the networks if they have changed; once the Budget is closed, only when
// Close asks: the directory may be another process's by then.
//
//	open, pwrite, fdatasync  guesses/.networks.<random>.tmp
//	rename                   guesses/.networks.<random>.tmp   guesses/networks
//	fsync                    guesses/
func (b *Budget) save(last bool) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed && !last {
		return nil
	}
	data := b.networks.snapshot(b.now())
	if data == nil {
		return nil
	}
	if err := durable.WriteFile(b.fs, filepath.Join(b.dir, networksName), data, 0o600); err != nil {
		b.networks.keep()
		return fmt.Errorf("writing the networks that guessed: %w", err)
	}
	return nil
}

// Close writes the networks. Accounts can be charged after it; what networks are
// charged then is not kept.
func (b *Budget) Close() error {
	b.mu.Lock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	b.mu.Unlock()
	return b.save(true)
}
