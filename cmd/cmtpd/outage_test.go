package main_test

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/letter"
)

var (
	outages    = flag.Int("outages", 30, "how often TestFederation_Outages kills a server or DNS")
	outageSeed = flag.Uint64("outageseed", rand.Uint64(), "the seed of TestFederation_Outages")
)

// perOutage is how many messages come around each outage.
const perOutage = 10

// TestFederation_Outages kills the sending server, the receiving one and DNS at random moments
// while mail crosses. What the first was given arrives once, or is reported.
func TestFederation_Outages(t *testing.T) {
	t.Parallel()
	t.Logf("-outageseed %d", *outageSeed)
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	s := &steadySender{from: a, to: b, key: w.ring(ch, a), seal: w.keyOf(ch, b), addr: a.Shared[0]}
	ch.Close()

	wanted, done := make(chan int, *outages), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(*outages)*2*time.Second)
	defer cancel()
	go func() { done <- s.run(ctx, wanted) }()
	random := rand.New(rand.NewPCG(*outageSeed, 0))
	moment := func(most time.Duration) <-chan time.Time {
		return time.After(time.Duration(random.Int64N(int64(most))))
	}
	kills := map[string]int{}
	for range *outages {
		wanted <- perOutage
		<-moment(400 * time.Millisecond)
		switch victims := random.IntN(8); {
		case victims < 3:
			kills["a"]++
			a.Kill()
			<-moment(200 * time.Millisecond)
			a.again(w, nil)
		case victims < 6:
			kills["b"]++
			b.Kill()
			<-moment(200 * time.Millisecond)
			b.again(w, nil)
		case victims == 6:
			kills["both"]++
			a.Kill()
			b.Kill()
			b.again(w, nil)
			a.again(w, nil)
		default:
			kills["dns"]++
			w.dns.Close()
			<-moment(200 * time.Millisecond)
			w.dnsAgain()
		}
	}
	close(wanted)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.Must(t, "", "queue", "retry", "--all") // else it remembers for half a minute that DNS failed
	a.awaitQueue(w, 0)
	w.checkOutages(a, b, s)
	t.Logf("killed %v; of %d letters %d were sent more than once", kills, len(s.digests), s.repeated)
}

// dnsAgain starts the name server where it was.
func (w *world) dnsAgain() {
	w.Helper()
	s, err := dnstest.Listen(w.dns.Addr, "example. 1 SOA ns.example. root.example. 1 60 60 60 1\n")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(s.Close)
	w.dns = s
	for _, r := range w.servers {
		w.publish(r, r.key())
	}
}

// checkOutages holds what arrived against what was sent.
func (w *world) checkOutages(a, b *realm, s *steadySender) {
	w.Helper()
	arrived, reports := map[string]int{}, 0
	for _, m := range b.list(w) {
		arrived[m.Digest]++
	}
	for _, m := range a.list(w) {
		if m.Source == "@a.example" {
			reports++
		}
	}
	missing := 0
	for i, digest := range s.digests {
		switch n := arrived[digest]; {
		case n == 0:
			missing++
		case n > 1:
			w.Errorf("letter %d arrived %d times", i, n)
		}
		delete(arrived, digest)
	}
	if missing > reports {
		w.Errorf("%d letters are missing, and %d were reported", missing, reports)
	}
	if len(arrived) > 0 {
		w.Errorf("%d letters arrived that nobody sent", len(arrived))
	}
	equal(w.T, "letters that were sent", len(s.digests), *outages*perOutage)
	for _, r := range []*realm{a, b} {
		r.Must(w, "", "spool", "verify")
	}
}

// A steadySender is a user who sends each letter until the own server has taken it.
type steadySender struct {
	from, to *realm
	key      *crypt.PrivateKey
	seal     crypt.PublicKey
	addr     string

	ch       *client.Channel
	digests  []string // hex, of what was taken
	repeated int
}

func (s *steadySender) run(ctx context.Context, wanted <-chan int) error {
	defer func() {
		if s.ch != nil {
			s.ch.Close()
		}
	}()
	for n := range wanted {
		for range n {
			if err := s.send(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// send sends one more letter.
func (s *steadySender) send(ctx context.Context) error {
	d := &letter.Draft{Time: time.Now(), Subject: fmt.Sprint(len(s.digests)), Text: []byte("hello")}
	m, err := d.Seal(s.from.alice(), s.to.alice(), s.seal)
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond) // nothing tells when a server is back
	defer tick.Stop()
	for begun := false; ; {
		if s.ch == nil {
			err = s.connect(ctx)
		}
		if err == nil {
			if begun {
				s.repeated++
			}
			begun = true
			var sent client.Sent
			if sent, err = s.ch.Send(m.Header, nil, m.Body, m.Attachments); err == nil {
				s.digests = append(s.digests, hex.EncodeToString(sent.Receipt.Digest[:]))
				return nil
			}
			s.ch.Close()
			s.ch = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d letters were taken: %w", len(s.digests), err)
		}
		err = nil
	}
}

func (s *steadySender) connect(ctx context.Context) error {
	_, ch, err := (&client.Dialer{Timeout: 10 * time.Second}).Open(ctx, s.addr, true)
	if err != nil {
		return err
	}
	ch.Accept()
	if _, err := ch.Auth(s.from.alice(), s.key); err != nil {
		ch.Close()
		return err
	}
	s.ch = ch
	return nil
}
