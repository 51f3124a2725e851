package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cmtpd/internal/keyfile"

	"cmtpd/internal/spool"
)

const (
	nearDomain = "near.example" // whose queue is full
	farDomain  = "bench.example"
)

// federation compares a queue's way into another server's spool with what that one takes
// from a load, and with Postfix.
func federation(l *lab) (*table, error) {
	t := &table{
		title: "From one server's queue into another's spool",
		note: fmt.Sprintf("Messages of 4 KiB a second between two daemons, from the moment that the operator has the queue tried again until the other spool has all of them. They were queued\n"+
			"while the other daemon was down. The load sends MAIL inside the channel to the same daemon, %d messages ahead of their receipts, as the queue does; it proves no\n"+
			"origin and checks no receipt. Postfix relays to another Postfix in the clear, without a log, from its deferred queue into the other's hold queue, from the moment of\n"+
			"postqueue -f: over one connection at a time, with its defaults (up to 20), and with 100 from the start that are kept.", inFlight),
		header: []string{"connections", "load", "Postfix", "cmtpd", "cmtpd ÷ load", "cmtpd ÷ Postfix"},
	}
	p, err := l.pair()
	if err != nil {
		return nil, err
	}
	hold, err := l.postfixWith(unhurried)
	if err != nil {
		return nil, err
	}
	for _, c := range crossings {
		if err := p.compare(t, hold, c); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// unhurried takes away what makes Postfix wait on purpose.
const unhurried = "in_flow_delay = 0\n"

// A crossing is what is compared.
type crossing struct {
	name            string
	conns, messages int    // of the load, and of cmtpd
	settings        string // of Postfix
	mails           int
}

var crossings = []crossing{
	{"1", 1, 5000, "smtp_destination_concurrency_limit = 1\n", 1000},
	{"8", 8, 10000, "", 2000},
	{"8, and of Postfix 100", 8, 10000, "smtp_destination_concurrency_limit = 100\ninitial_destination_concurrency = 100\nsmtp_connection_cache_destinations = static:all\n", 2000},
}

func (p *pair) compare(t *table, hold *postfix, c crossing) error {
	relay, err := p.postfixWith(fmt.Sprintf("mydestination =\nrelayhost = %s\n", bracketed(hold.addr)) + unhurried + c.settings)
	if err != nil {
		return err
	}
	var load, near, far series // processor time a message
	s, err := p.each(3, func(cell int) (float64, error) {
		switch cell {
		case 0:
			r, err := p.load(c.conns, c.messages)
			load = append(load, r.far)
			return r.rate, err
		case 1:
			return relay.relayed(p.lab, hold, c.mails)
		}
		r, err := p.deliver(c.conns, c.messages)
		near, far = append(near, r.near), append(far, r.far)
		return r.rate, err
	})
	if err != nil {
		return err
	}
	t.add(c.name, number(s[0].median()), number(s[1].median()), number(s[2].median()), verdict(s[2].over(s[0]).median(), 0.5), verdict(s[2].over(s[1]).median(), 10))
	t.add("the same, processor time a message of the sender and of the receiver, µs", "receiver "+number(load.median()), "",
		number(near.median())+" and "+number(far.median()), "", "")
	return nil
}

// A pair is two servers that find each other by name.
type pair struct {
	*lab
	near, far *site
	settings  []byte // of near, to which a line may be added
}

func (l *lab) pair() (*pair, error) {
	n, err := l.names()
	if err != nil {
		return nil, err
	}
	p := &pair{lab: l}
	// Nobody but the operator has anything tried again while a cell lasts.
	if p.near, err = l.siteOf(nearDomain, "127.0.0.3", 1024, n.settings()+"retry_min = \"1h\"\n"); err != nil {
		return nil, err
	}
	if p.far, err = l.siteOf(farDomain, "127.0.0.2", 1024, n.settings()); err != nil {
		return nil, err
	}
	if p.settings, err = os.ReadFile(p.near.conf); err != nil {
		return nil, err
	}
	return p, errors.Join(n.settle(p.near), n.settle(p.far))
}

// settle publishes the server of a site, which gets its keys by that.
func (n *names) settle(s *site) error {
	for _, name := range []string{"spool.key", "server.key"} {
		if _, _, err := keyfile.LoadOrCreate(filepath.Join(s.data, name)); err != nil {
			return err
		}
	}
	key, err := keyfile.Load(filepath.Join(s.data, "server.key"))
	if err != nil {
		return err
	}
	return n.publish(s.domain, place{"mail." + s.domain, s.addr, key.Public()})
}

// A passage is how messages crossed.
type passage struct {
	rate      float64 // a second
	near, far float64 // processor time of the daemons a message, µs
}

// load has the far server take messages from a load.
func (p *pair) load(conns, messages int) (r passage, err error) {
	cmd, err := p.far.serve()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, end(cmd, syscall.SIGTERM)) }()
	before, err := cpuTime(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	if r.rate, err = p.pipelined(inside, p.far.addr, conns, 4<<10, messages); err != nil {
		return r, err
	}
	after, err := cpuTime(cmd.Process.Pid)
	r.far = (after - before).Seconds() * 1e6 / float64(messages)
	return r, err
}

// deliver fills the near server's queue while the far one is down, and returns how
// fast the messages cross.
func (p *pair) deliver(conns, messages int) (r passage, err error) {
	lead := spool.ID(math.MaxUint64) // the first, whose attempt is the destination's
	var mu sync.Mutex
	err = p.near.within(func(sp *spool.Spool) error {
		return p.near.enqueue(sp, messages, 4<<10, func(int) string { return farDomain }, func(_ int, id spool.ID) {
			mu.Lock()
			defer mu.Unlock()
			lead = min(lead, id)
		})
	})
	if err != nil {
		return r, err
	}
	settings := fmt.Appendf(p.settings, "max_connections_per_domain = %d\n", conns)
	if err := os.WriteFile(p.near.conf, settings, 0o600); err != nil {
		return r, err
	}
	near, err := p.near.serveAll()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, end(near, syscall.SIGTERM)) }()
	err = p.await("a first attempt", func() (bool, error) {
		e, err := p.near.control().Queue().Show(lead)
		return e.Reason != "", err
	})
	if err != nil {
		return r, err
	}
	far, err := p.far.serveAll()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, end(far, syscall.SIGTERM)) }()
	return p.release(near.Process.Pid, far.Process.Pid, messages)
}

// release has the near queue tried again, and waits until all of it has crossed.
func (p *pair) release(near, far, messages int) (r passage, err error) {
	var before, after [2]time.Duration
	here, there := p.near.control(), p.far.control()
	state, err := there.Spool()
	if err != nil {
		return r, err
	}
	wanted := state.Stats.Messages + messages
	if err := times(&before, near, far); err != nil {
		return r, err
	}
	start := time.Now()
	if n, err := here.Queue().RetryDomain(farDomain); err != nil || n != messages {
		return r, fmt.Errorf("%d of %d messages are to be tried again: %w", n, messages, err)
	}
	err = p.await("messages to cross", func() (bool, error) {
		state, err := there.Spool()
		return state.Stats.Messages >= wanted, err
	})
	took := time.Since(start)
	if err != nil {
		return r, err
	}
	err = p.await("the queue to be empty", func() (bool, error) {
		state, err := here.Spool()
		return state.Stats.Messages == 0, err
	})
	if err == nil {
		err = times(&after, near, far)
	}
	each := func(i int) float64 { return (after[i] - before[i]).Seconds() * 1e6 / float64(messages) }
	return passage{float64(messages) / took.Seconds(), each(0), each(1)}, err
}

func times(of *[2]time.Duration, pids ...int) (err error) {
	for i, pid := range pids {
		if of[i], err = cpuTime(pid); err != nil {
			return err
		}
	}
	return nil
}

// serveAll is serve, and returns once the daemon also answers at its socket.
func (s *site) serveAll() (*exec.Cmd, error) {
	cmd, err := s.serve()
	if err != nil {
		return nil, err
	}
	return cmd, s.await("the daemon's socket", func() (bool, error) {
		_, err := s.control().Spool()
		return err == nil, nil
	})
}
