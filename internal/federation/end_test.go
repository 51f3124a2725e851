package federation_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/federation"
	"cmtpd/internal/letter"
	"cmtpd/internal/queue"
)

// fates counts what becomes of messages.
type fates chan string

func (f fates) Delivered(n int) { f.say("delivered", n) }
func (f fates) Deferred(int)    {}
func (f fates) Refused(uint16)  {}
func (f fates) Failed(n int)    { f.say("failed", n) }

func (f fates) say(what string, n int) {
	for range n {
		f <- what
	}
}

// run lets the queue work until the test is over.
func (s *site) run(t *testing.T) fates {
	t.Helper()
	seen := make(fates, 1000)
	q, err := queue.New(queue.Config{
		Store: queue.Spool{Spool: s.spool}, Mailbox: outgoing, Deliverer: federation.NewDeliverer(s.peers, s.spool, "mx."+s.domain.String()),
		Reporter: reportsOf(s), Observer: seen,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return seen
}

func (f fates) await(t *testing.T, n int) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for range n {
		select {
		case what := <-f:
			all[what]++
		case <-time.After(patience):
			t.Fatalf("only %v", all)
		}
	}
	return all
}

// A letter crosses by name alone: written to the key that the other server gave, handed in by
// its proven user, and opened by its reader. What is for nobody comes back as a report.
func TestEndToEnd(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	found, err := lookup(t, keysOf(a), "bob@b.example")
	if err != nil {
		t.Fatal(err)
	}
	_, ch, err := (&client.Dialer{Timeout: patience}).Open(t.Context(), a.addr, true)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	ch.Accept()
	if _, err := ch.Auth(name("alice@a.example"), a.users["alice"]); err != nil {
		t.Fatal(err)
	}
	d := letter.Draft{Time: time.Now(), Subject: "Hello", Text: []byte("Hi Bob\n")}
	sent := map[string]client.Sent{}
	for _, to := range []string{"bob@b.example", "nobody@b.example"} {
		m, err := d.Seal(name("alice@a.example"), name(to), found.Key)
		if err != nil {
			t.Fatal(err)
		}
		if sent[to], err = ch.Send(m.Header, nil, m.Body, m.Attachments); err != nil || !sent[to].Queued {
			t.Fatalf("%+v, %v", sent[to], err)
		}
	}
	got := a.run(t).await(t, 2)
	if got["delivered"] != 1 || got["failed"] != 1 {
		t.Fatalf("the fates are %v", got)
	}
	box := b.box("bob")
	if len(box) != 1 || string(box[0].open(t, b.users["bob"]).Text) != "Hi Bob\n" {
		t.Fatalf("bob has %d letters", len(box))
	}
	m := box[0]
	if m.info.Digest != sent["bob@b.example"].Receipt.Digest {
		t.Error("it is another message than alice has a receipt for")
	}
	from := &federation.Remote{Domain: a.domain, Key: a.key.Public()}
	if _, err := meet(t, b, "a.example"); err != nil {
		t.Fatal(err)
	}
	if standing, err := b.peers.CheckOrigin(t.Context(), &m.Header, m.Log, m.info.Digest, from, visitor); standing != federation.Proven || err != nil {
		t.Errorf("its origin: %v, %v", standing, err)
	}
	reports := a.box("alice")
	if len(reports) != 1 {
		t.Fatalf("alice has %d reports", len(reports))
	}
	r := reports[0].open(t, a.users["alice"])
	if r.Subject != "Not delivered: your letter to nobody@b.example" || !strings.Contains(string(r.Text), "550") {
		t.Errorf("the report is %q\n%s", r.Subject, r.Text)
	}
	for info := range a.spool.List(outgoing, 0) {
		t.Errorf("%s is left in the queue", info.ID)
	}
}

// However the other side's key changes, mail waits, and says why.
func TestEndToEnd_Held(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	if _, err := meet(t, a, "b.example"); err != nil {
		t.Fatal(err)
	}
	thief := w.serve("b.example", options{}, "bob")
	w.lead("127.0.0.3", thief.addr)
	item := a.queued("alice", "bob@b.example", "", 100)
	_, err := a.deliver("b.example", item)
	if r := failure(t, err); r.Outcome != queue.Distrusted {
		t.Errorf("%+v", r)
	}
	if len(thief.box("bob")) != 0 {
		t.Error("the thief has it")
	}
	w.lead("127.0.0.3", b.addr)
	if r, err := a.deliver("b.example", item); err != nil || r[0].Outcome != queue.Delivered || len(b.box("bob")) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
