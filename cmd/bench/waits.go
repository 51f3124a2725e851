package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// How many wait for news, of how many mailboxes, and how long they are left alone.
const (
	waiters   = 19_000
	waitBoxes = 1000
	waitQuiet = 5 * time.Second
)

// mailboxWait measures what clients cost that wait for news, and how fast they are told.
func mailboxWait(l *lab) (*table, error) {
	t := &table{
		title: "Clients that wait for news",
		note: fmt.Sprintf("%d clients inside the channel, each of a proven user, wait (WAIT): all for one mailbox, or %d for each of %d. Memory is what is resident of the daemon, less what was before they\n"+
			"came, by their number, %v after the last one began to wait; the kernel's is not in it. Then one message comes to each mailbox, all over one connection. The time is from before the first of\n"+
			"them is sent until a client, of which all are one process on the same CPUs, has read its answer. limits.max_waits_account lets so many wait for one mailbox here. Of the\n"+
			"memory, counted once by pprof, 9 KiB are a stack, of which a session that waits uses 3, 10 are in use, of which crypto/tls' buffers are 4 and its ciphers 2, and most of the\n"+
			"rest is what Go's collector lets lie until it runs again.",
			waiters, waiters/waitBoxes, waitBoxes, waitQuiet),
		header: []string{"", "of one mailbox", fmt.Sprintf("of %d mailboxes", waitBoxes), ""},
	}
	var kib, idle, half, told, cpu [2]series
	_, err := l.each(2, func(cell int) (float64, error) {
		w, err := l.watch([]int{1, waitBoxes}[cell])
		for s, v := range map[*series]float64{&kib[cell]: w.kib, &idle[cell]: w.idle, &half[cell]: w.half, &told[cell]: w.told, &cpu[cell]: w.cpu} {
			*s = append(*s, v)
		}
		return 0, err
	})
	if err != nil {
		return nil, err
	}
	row := func(name string, s [2]series) { t.add(name, number(s[0].median()), number(s[1].median()), "") }
	row("resident, KiB a client", kib)
	row("processor time while nothing happens, ms a second", idle)
	row("until half are told, ms", half)
	row("until all are told, ms", told)
	row("processor time of the daemon for it, µs a client", cpu)
	return t, nil
}

// watched is what came of watching clients wait.
type watched struct {
	kib        float64 // resident, of each
	idle       float64 // ms of processor time a second
	half, told float64 // ms until so many were told
	cpu        float64 // µs of processor time for each
}

// watch has clients wait for news of so many mailboxes.
func (l *lab) watch(boxes int) (r watched, err error) {
	metrics, err := freePort()
	if err != nil {
		return r, err
	}
	s, err := l.site(waiters+100, fmt.Sprintf("max_waits = %d\nmax_waits_account = %[1]d\n[metrics]\nlisten = %q\n", waiters, metrics))
	if err != nil {
		return r, err
	}
	cmd, err := s.serveAll()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, end(cmd, os.Kill), os.RemoveAll(filepath.Dir(s.conf))) }()
	w := &watch{site: s, boxes: boxes, metrics: metrics, waiting: make([]*client.Channel, waiters), when: make([]time.Duration, waiters), errs: make([]error, waiters)}
	if err := w.enroll(); err != nil {
		return r, err
	}
	return w.measure(cmd.Process.Pid)
}

// A watch is clients that wait.
type watch struct {
	*site
	boxes   int
	metrics string
	key     *crypt.PrivateKey // all users'
	waiting []*client.Channel
	start   time.Time       // when the messages were sent
	when    []time.Duration // by client: how long after start it was told
	errs    []error         // by client
}

func (w *watch) measure(pid int) (r watched, err error) {
	before, err := resident(pid)
	if err != nil {
		return r, err
	}
	defer w.close()
	var told sync.WaitGroup
	if err := w.connect(&told); err != nil {
		return r, err
	}
	if err := w.await("clients to wait", w.allWait); err != nil {
		return r, err
	}
	if r.idle, err = w.quiet(pid); err != nil {
		return r, err
	}
	after, err := resident(pid)
	if err != nil {
		return r, err
	}
	r.kib = (after - before) / waiters
	spent, err := cpuTime(pid)
	if err != nil {
		return r, err
	}
	w.start = time.Now()
	if err := w.send(w.messages()); err != nil {
		return r, err
	}
	told.Wait()
	done, err := cpuTime(pid)
	slices.Sort(w.when)
	r.half, r.told = w.when[waiters/2].Seconds()*1e3, w.when[waiters-1].Seconds()*1e3
	r.cpu = (done - spent).Seconds() * 1e6 / waiters
	return r, errors.Join(append(w.errs, err)...)
}

// quiet lets a time pass, and returns how many ms of processor time a second the daemon needs.
func (w *watch) quiet(pid int) (float64, error) {
	before, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(waitQuiet):
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
	after, err := cpuTime(pid)
	return (after - before).Seconds() * 1e3 / waitQuiet.Seconds(), err
}

func (w *watch) user(box int) (address.Address, error) {
	return address.Parse(fmt.Sprintf("user%d@%s", box, w.domain))
}

// enroll makes the users, who share a key: what they are sealed under does not matter here.
func (w *watch) enroll() (err error) {
	if w.key, err = crypt.GenerateKey(); err != nil {
		return err
	}
	control := w.control() // one for all, since each keeps a connection
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: w.key}}}
	for i := range w.boxes {
		at, err := w.user(i)
		if err != nil {
			return err
		}
		sealed, err := xzibit.Seal(ring, at.String(), []byte(password), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
		if err != nil {
			return err
		}
		if _, err := control.Add(account.NewRegistration(at, w.key, time.Now(), sealed)); err != nil {
			return err
		}
	}
	return nil
}

// connect has the clients begin to wait, some at a time.
func (w *watch) connect(told *sync.WaitGroup) error {
	const at = 16
	var wg sync.WaitGroup
	var errs [at]error
	for k := range at {
		wg.Go(func() {
			for i := k; i < waiters && errs[k] == nil && w.ctx.Err() == nil; i += at {
				errs[k] = w.begin(i, told)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs[:], w.ctx.Err())...)
}

// begin has client i wait. Several loopback addresses are used, so that the ports of none run out.
func (w *watch) begin(i int, told *sync.WaitGroup) error {
	dial := func(_ context.Context, _, addr string) (net.Conn, error) {
		return dial(addr, net.IPv4(127, 0, 0, byte(2+i%8)))
	}
	_, c, err := (&client.Dialer{Dial: dial}).Open(w.ctx, w.addr, true)
	if err != nil {
		return fmt.Errorf("client %d: %w", i+1, err)
	}
	w.waiting[i] = c
	c.Accept()
	at, err := w.user(i % w.boxes)
	if err != nil {
		return err
	}
	if _, err := c.Auth(at, w.key); err != nil {
		return err
	}
	box, err := c.Mailbox()
	if err != nil {
		return err
	}
	told.Go(func() {
		p, err := c.Wait(context.Background(), cmtp.WaitQuery{Epoch: box.Epoch, Change: box.Change, Seconds: cmtp.MaxWait})
		w.when[i] = time.Since(w.start)
		if err == nil && len(p.Entries) != 1 {
			err = fmt.Errorf("client %d was told of %d messages", i+1, len(p.Entries))
		}
		w.errs[i] = err
	})
	return nil
}

// allWait asks the daemon.
func (w *watch) allWait() (bool, error) {
	resp, err := http.Get("http://" + w.metrics + "/metrics")
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return strings.Contains(string(b), fmt.Sprintf("\ncmtpd_waits %d\n", waiters)), err
}

// messages are one to each mailbox.
func (w *watch) messages() iter.Seq[client.Outgoing] {
	return func(yield func(client.Outgoing) bool) {
		body := make(bodyPart, smallFetch)
		for i := range w.boxes {
			h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: fmt.Sprintf("user%d", i), DestinationDomain: w.domain,
				SourceAccount: "load", SourceDomain: "elsewhere.example"}
			if !yield(client.Outgoing{Header: h, Body: body}) {
				return
			}
		}
	}
}

func (w *watch) close() {
	for _, c := range w.waiting {
		if c != nil {
			c.Close() // its error is the daemon's, or that it was closed
		}
	}
}
