// Package guess bounds how often strangers may guess at what only an account's user
// knows (protocol.md section 19.3): a password, an invitation's code, a recovery key.
//
// It guarantees that an attempt is charged on the account, durably, before Charge
// returns nil, so that neither a crash nor a restart gives one back; that running out
// of attempts only delays, whatever the clock does and whatever becomes of the files;
// that strangers' attempts do not count against a network from which the user was
// proven; and a bound on its own memory whatever number of networks there is.
//
// A file in its directory is named after the account's random ID in hex. It holds
// the account's allowance, and the networks from which its user was proven, each with
// an allowance of its own:
//
//	8       the ASCII characters cmtpdGA1
//	16      the account's ID
//	8       u64, when the allowance is whole again, in nanoseconds since 1970
//	1       u8, n: 0 to 16
//	25 n    networks, the least recently proven first: each once, its 17 bytes, and
//	        a time as above, of its own allowance
//	4       u32, CRC-32C of what stands before it
//
// The file "networks" holds the allowances of networks that are not whole:
//
//	8       the ASCII characters cmtpdGN1
//	8       u64, when a network that is not listed has a whole allowance again
//	4       u32, n: 0 to 65,537
//	25 n    networks and times as above, in ascending order of the 17 bytes
//	4       u32, CRC-32C of what stands before it
//
// A network is a byte for its bits and 16 for its address, with zeros behind those
// bits; one of 48 bits stands for the networks in it beyond the 64 that are told apart. One of
// IPv4 stands as an IPv6 network in ::ffff:0:0/96; 255 and zeros stand
// for clients without an address, and for those that could not be told apart. Numbers
// are big-endian, as in the protocol.
package guess

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/limit"
)

// Options say how a Budget is opened. All but Now and Log must be set.
type Options struct {
	FS  durable.FS
	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // discarded if nil

	Rates // SetRates changes them
}

// Rates are how many attempts there may be.
type Rates struct {
	Rate         int // attempts that an account gets back in an hour
	Burst        int // attempts that it has at once
	NetworkRate  int // the same of a network, for all accounts together
	NetworkBurst int
}

// Exhausted is the error of an attempt for which there is no allowance. It was not
// charged.
type Exhausted struct {
	RetryAfter time.Duration // when there is one, if nobody else takes it
}

func (e *Exhausted) Error() string {
	// Rounded up: whoever waits as long as it says is not refused again.
	return fmt.Sprintf("there were too many attempts; the next one is possible in %s", (e.RetryAfter + time.Second - 1).Truncate(time.Second))
}

// A Budget holds the allowances. It is safe for many goroutines; only one process may
// have a directory open.
type Budget struct {
	dir      string
	fs       durable.FS
	log      *slog.Logger
	clock    func() time.Time
	rate     atomic.Pointer[rate]
	networks *networks

	locks [64]sync.Mutex // by the account ID's first byte; held through a change, its flush included

	saving sync.Mutex // held through a write of the networks

	mu     sync.Mutex
	timer  *time.Timer // under mu: not nil while changed networks wait to be written
	closed bool        // under mu
}

const (
	networksName = "networks"
	temporary    = ".tmp" // how what durable.WriteFile may leave ends

	// saveEvery is the least time between two writes of the networks.
	saveEvery = time.Minute
)

// Open opens the allowances in dir, which it makes when there is none. It reads no
// account's file: one that is damaged is met by the account's next attempt. Neither
// that nor damaged networks keep a server from starting.
func Open(dir string, o Options) (*Budget, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Budget{dir: dir, fs: o.FS, log: o.Log, clock: o.Now, networks: newNetworks()}
	b.SetRates(o.Rates)
	if err := durable.MkdirAll(b.fs, dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the budgets of guesses: %w", err)
	}
	names, err := b.fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the budgets of guesses: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") && strings.HasSuffix(name, temporary) {
			if err := b.fs.Remove(filepath.Join(dir, name)); err != nil {
				return nil, fmt.Errorf("opening the budgets of guesses: %w", err)
			}
		}
	}
	return b, b.loadNetworks()
}

// now is the time in nanoseconds since 1970. It is the clock on the wall, since what
// is written has to mean something after a restart.
func (b *Budget) now() int64 { return max(b.clock().UnixNano(), 0) }

// SetRates has other rates count from now on. What was
// used stays used, as far as the new ones can owe it.
func (b *Budget) SetRates(rates Rates) {
	r := newRate(rates.Rate, rates.Burst)
	b.rate.Store(&r)
	b.networks.mu.Lock()
	defer b.networks.mu.Unlock()
	b.networks.rate = newRate(rates.NetworkRate, rates.NetworkBurst)
}

// Charge takes one attempt on an account from a client's address: from the network's
// allowance, and from the account's, or from the one that a network has of its own
// from which the account's user was proven. Where either has none left it takes
// nothing, and errors.As finds *Exhausted in the error. With any error nothing may be
// evaluated. The account must be one that exists: each has a file.
//
//	open, pwrite, fdatasync  guesses/.<account>.<random>.tmp
//	rename                   guesses/.<account>.<random>.tmp   guesses/<account>
//	fsync                    guesses/
func (b *Budget) Charge(account [16]byte, from netip.Addr) error {
	network := limit.Prefix(from)
	lock := b.lock(account)
	defer lock.Unlock()
	now := b.now()
	a, changed, err := b.load(account, now)
	if err != nil {
		return fmt.Errorf("charging an attempt: %w", err)
	}
	slot, proven := a.slot(network)
	next, wait := b.rate.Load().take(*slot, now)
	if wait = max(wait, b.networks.take(network, now, proven, wait == 0)); wait > 0 {
		if changed {
			// A time that was brought nearer has to stay so, or it never comes.
			if err := b.store(account, a); err != nil {
				return fmt.Errorf("charging an attempt: %w", err)
			}
		}
		return &Exhausted{RetryAfter: wait}
	}
	b.schedule()
	*slot = next
	if err := b.store(account, a); err != nil {
		b.networks.giveBack(network, now, 1)
		return fmt.Errorf("charging an attempt: %w", err)
	}
	return nil
}

// ChargeNetwork takes one attempt from the network's allowance alone: for one on an
// account that does not exist. Its errors are those of Charge.
func (b *Budget) ChargeNetwork(from netip.Addr) error {
	if wait := b.networks.take(limit.Prefix(from), b.now(), false, true); wait > 0 {
		return &Exhausted{RetryAfter: wait}
	}
	b.schedule()
	return nil
}

// Refund gives back the n attempts that a session charged from one address, once the
// account's user is proven in it, and remembers the network for that user. They go to
// the allowance that an attempt from there is charged on until then; none becomes more
// than whole. An error means that attempts stay charged, which only delays; the user
// is proven all the same. The system calls are those of Charge, and there are none
// where nothing changes.
func (b *Budget) Refund(account [16]byte, from netip.Addr, n int) error {
	network := limit.Prefix(from)
	lock := b.lock(account)
	defer lock.Unlock()
	now := b.now()
	a, changed, err := b.load(account, now)
	if err != nil {
		return fmt.Errorf("giving attempts back: %w", err)
	}
	if n > 0 {
		slot, _ := a.slot(network)
		*slot = b.rate.Load().giveBack(*slot, now, n)
		b.networks.giveBack(network, now, n)
		b.schedule()
		changed = true
	}
	if a.prove(network) {
		changed = true
	}
	if !changed {
		return nil
	}
	if err := b.store(account, a); err != nil {
		return fmt.Errorf("giving attempts back: %w", err)
	}
	return nil
}

// Forget removes what is kept of an account, once that is removed.
//
//	unlink  guesses/<account>
//	fsync   guesses/
func (b *Budget) Forget(account [16]byte) error {
	lock := b.lock(account)
	defer lock.Unlock()
	err := b.fs.Remove(b.path(account))
	if err == nil || errors.Is(err, fs.ErrNotExist) { // an earlier try may have got as far as that
		err = b.fs.SyncDir(b.dir)
	}
	if err != nil {
		return fmt.Errorf("forgetting the attempts on a removed account: %w", err)
	}
	return nil
}

func (b *Budget) path(account [16]byte) string {
	return filepath.Join(b.dir, hex.EncodeToString(account[:]))
}

// lock takes the lock of an account. IDs are random, so few share one.
func (b *Budget) lock(account [16]byte) *sync.Mutex {
	l := &b.locks[int(account[0])%len(b.locks)]
	l.Lock()
	return l
}

// load reads what is kept of an account, and reports whether it differs from what is on
// disk. A file that cannot be read as one stands for an allowance that is used up:
// damage may delay the user, but must not give attempts to whoever waits for it.
func (b *Budget) load(account [16]byte, now int64) (a *allowances, changed bool, err error) {
	path := b.path(account)
	data, err := durable.ReadFile(b.fs, path, maxAccount)
	if errors.Is(err, fs.ErrNotExist) {
		return new(allowances), false, nil
	}
	if isPassing(err) {
		return nil, false, err
	}
	if err == nil {
		a, err = parseAccount(account, data)
	}
	if err != nil {
		b.log.Warn("the file of an account's guesses is damaged: its attempts count as used up, and come back with time", "file", path, "error", err)
		return &allowances{common: b.rate.Load().empty(now)}, true, nil
	}
	return a, a.bound(*b.rate.Load(), now), nil
}

// isPassing reports whether a file could not be read for want of something that other
// connections took: it says nothing about the file.
func isPassing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// store replaces an account's file. After an error nobody knows whether the old or the
// new one is there, and either holds every attempt that was granted. The next store
// writes all of it again, to a file and under a name of its own, so it does not build
// on what a failed flush has left.
func (b *Budget) store(account [16]byte, a *allowances) error {
	return durable.WriteFile(b.fs, b.path(account), a.append(nil, account), 0o600)
}
