package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
)

// An outage is one run of TestFederation_Outages. Of a letter only its number is kept, which its
// destination names: alice+17@b.example, or nobody-17@b.example.
type outage struct {
	*world
	a, b   *realm
	random *rand.Rand
	kills  map[string]int

	addr     string            // of a
	key      *crypt.PrivateKey // of alice at a
	seal     crypt.PublicKey   // of alice at b
	begun    chan int          // letters that are to be sent
	repeated atomic.Int64      // letters that were sent again, since no answer came

	mu        sync.Mutex
	forgotten [][]client.Outgoing // under mu: taken, and sent again in the end
}

// pipelined is how many letters are sent before an answer is waited for.
const pipelined = 32

// isToNobody says whether letter i has to be reported.
func isToNobody(i int) bool { return i%perReport == perReport-1 }

// send sends the letters of begun until it is closed, and then says so or why it could not.
func (o *outage) send() <-chan error {
	ended := make(chan error, outageSenders)
	for range outageSenders {
		seed := o.random.Uint64()
		go func() {
			s := &steadySender{outage: o, random: rand.New(rand.NewPCG(seed, 0))}
			defer s.hangUp()
			ended <- s.run()
		}()
	}
	first := make(chan error, 1)
	go func() {
		for range outageSenders {
			if err := <-ended; err != nil {
				first <- err
				return
			}
		}
		first <- nil
	}()
	return first
}

// A steadySender is a user who sends letters again and again until the own server has taken them,
// over a line that does not hold for long.
type steadySender struct {
	*outage
	random *rand.Rand // of this sender
	ch     *client.Channel
	line   context.CancelFunc
}

func (s *steadySender) run() error {
	for i := range s.begun {
		some := make([]client.Outgoing, 0, pipelined)
		for more := true; more; {
			m, err := s.draw(i)
			if err != nil {
				return err
			}
			some = append(some, m)
			if more = len(some) < pipelined; more {
				select {
				case i, more = <-s.begun:
				default:
					more = false
				}
			}
		}
		if err := s.deliver(some); err != nil {
			return err
		}
		if s.random.IntN(perForgotten) == 0 {
			s.mu.Lock()
			s.forgotten = append(s.forgotten, some)
			s.mu.Unlock()
		}
	}
	return nil
}

// sendForgotten sends once more what somebody has forgotten to have sent: when it has left the queue.
func (o *outage) sendForgotten() {
	o.Helper()
	s := &steadySender{outage: o, random: o.random}
	defer s.hangUp()
	for _, some := range o.forgotten {
		o.repeated.Add(int64(len(some)))
		if err := s.deliver(some); err != nil {
			o.Fatal(err)
		}
	}
}

// draw writes a letter.
func (s *steadySender) draw(i int) (client.Outgoing, error) {
	to := s.b.alice()
	d := &letter.Draft{Time: time.Now(), Subject: strconv.Itoa(i), Text: []byte("hello")}
	if i%perLarge == perLarge-2 {
		d.Text = make([]byte, 300<<10)
	}
	m, err := d.Seal(s.a.alice(), to, s.seal)
	if err != nil {
		return client.Outgoing{}, err
	}
	m.Header.DestinationAccount = fmt.Sprintf("alice+%d", i)
	if isToNobody(i) {
		m.Header.DestinationAccount = fmt.Sprintf("nobody-%d", i)
	}
	return client.Outgoing{Header: m.Header, Body: m.Body}, nil
}

// deliver hands letters in, and those again of which no answer came.
func (s *steadySender) deliver(left []client.Outgoing) error {
	for began := time.Now(); len(left) > 0; {
		taken, sent, err := s.try(left)
		left = left[taken:]
		switch {
		case err == nil:
			continue
		case errors.As(err, new(*cmtp.StatusError)) || s.Context().Err() != nil || time.Since(began) > standstill:
			return fmt.Errorf("sending letters: %w", err)
		}
		if sent {
			s.repeated.Add(int64(len(left)))
		}
		<-time.After(time.Duration(s.random.Int64N(int64(down)))) // nothing tells when a server is back
	}
	return nil
}

// try says how many letters the server has taken.
func (s *steadySender) try(left []client.Outgoing) (taken int, sent bool, err error) {
	if s.ch == nil {
		if err := s.connect(); err != nil {
			return 0, false, err
		}
	}
	fates, err := s.ch.SendAll(func(yield func(client.Outgoing) bool) {
		for _, m := range left {
			if sent = true; !yield(m) {
				return
			}
		}
	})
	for _, f := range fates {
		if f.Err != nil {
			return taken, sent, f.Err
		}
		taken++
	}
	if err != nil {
		s.hangUp()
	}
	return taken, sent, err
}

func (s *steadySender) connect() error {
	ctx, cut := context.WithCancel(s.Context())
	_, ch, err := (&client.Dialer{Timeout: 10 * time.Second}).Open(ctx, s.addr, true)
	if err != nil {
		cut()
		return err
	}
	s.ch, s.line = ch, cut
	ch.Accept()
	if _, err := ch.Auth(s.a.alice(), s.key); err != nil {
		s.hangUp()
		return err
	}
	time.AfterFunc(time.Duration(s.random.Int64N(int64(perLine**outagePause))), cut)
	return nil
}

func (s *steadySender) hangUp() {
	if s.ch != nil {
		s.ch.Close()
		s.line()
		s.ch = nil
	}
}

// check holds what arrived, and what was reported, against what was sent. Both servers are stopped.
func (o *outage) check() {
	o.Helper()
	arrived, reported := make([]uint8, *letters), make([]uint8, *letters)
	count := func(in []uint8, name, prefix string) {
		if i, err := strconv.Atoi(strings.TrimPrefix(name, prefix)); err != nil || i < 0 || i >= len(in) {
			o.Errorf("nobody sent a letter to %q", name)
		} else {
			in[i]++
		}
	}
	o.b.each(o.world, func(_ spool.Info, r *spool.Reader) error {
		l, err := cmtp.ParseLayout(r, r.Size())
		if err == nil {
			count(arrived, l.Header.DestinationAccount, "alice+")
		}
		return err
	})
	o.a.each(o.world, func(info spool.Info, r *spool.Reader) error {
		l, err := letter.Open(r, r.Size(), []*crypt.PrivateKey{o.key})
		if err != nil {
			return err
		}
		name, found := strings.CutPrefix(l.Subject, "Not delivered: your letter to ")
		if !found || info.From != "cmtpd" {
			o.Errorf("%s of %s is no report: %q", info.ID, info.From, l.Subject)
		}
		count(reported, strings.TrimSuffix(name, "@b.example"), "nobody-")
		return nil
	})
	wrong := 0
	for i := range arrived {
		want, not := arrived[i], reported[i]
		if isToNobody(i) {
			want, not = not, want
		}
		if want == 1 && not == 0 {
			continue
		}
		if wrong++; wrong <= 20 {
			o.Errorf("letter %d arrived %d times and was reported %d times", i, arrived[i], reported[i])
		}
	}
	equal(o.T, "letters with another fate than one", wrong, 0)
	for _, r := range []*realm{o.a, o.b} {
		r.Must(o, "", "spool", "verify")
	}
}

// each reads all messages of a server, one at a time.
func (r *realm) each(w *world, do func(spool.Info, *spool.Reader) error) {
	w.Helper()
	s, err := spool.OpenReadOnly(filepath.Join(r.Data, "spool"), durable.OS)
	if err != nil {
		w.Fatal(err)
	}
	defer s.Close()
	for info, err := range s.All(0) {
		var m *spool.Reader
		if err == nil {
			m, err = s.Open(info.ID)
		}
		if err == nil {
			err = do(info, m)
			m.Close()
		}
		if err != nil {
			w.Fatalf("message %s: %v", info.ID, err)
		}
	}
}
