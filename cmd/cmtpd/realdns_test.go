package main_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
)

// A path is the way from a validating resolver to the signed zones of a world, on which
// somebody can change what is said.
type path struct {
	signer *cmtptest.Knot
	forge  atomic.Pointer[func(*dns.Msg)]
}

// secure signs what the world has published, and has its servers ask a real resolver that
// validates it. What is published later is not seen.
func (w *world) secure() *path {
	w.Helper()
	p := new(path)
	zones, where := map[string]string{}, map[string]*cmtptest.Knot{}
	for domain, records := range w.zone {
		zones[domain] = "$TTL 1\n" + domain + ". SOA ns." + domain + ". root." + domain + ". 1 7200 3600 604800 1\n" +
			domain + ". NS ns." + domain + ".\nns." + domain + ". A 127.0.0.1\n" + records
	}
	p.signer = cmtptest.StartKnot(w, true, zones)
	var anchors []string
	front := &cmtptest.Knot{Addr: p.start(w)}
	for domain := range zones {
		anchors = append(anchors, p.signer.Anchor(w, domain)...)
		where[domain] = front
	}
	resolver := cmtptest.StartUnbound(w, true, anchors, where)
	for _, r := range w.servers {
		r.Stop(w)
		r.again(w, cmtptest.Settings{"dns.resolver": `"` + resolver + `"`, "dns.trusted": "true"})
	}
	return p
}

// start passes questions on to the signer, and answers back, on a free port.
func (p *path) start(t testing.TB) (addr string) {
	t.Helper()
	started := make(chan struct{})
	handler := dns.HandlerFunc(func(out dns.ResponseWriter, q *dns.Msg) {
		m, _, err := (&dns.Client{Net: "tcp", Timeout: 5 * time.Second}).Exchange(q, p.signer.Addr)
		if err != nil {
			return // the resolver asks again
		}
		if forge := p.forge.Load(); forge != nil {
			(*forge)(m)
		}
		out.WriteMsg(m) // the resolver may be gone
	})
	s := &dns.Server{Addr: "127.0.0.1:0", Net: "udp", Handler: handler, NotifyStartedFunc: func() { close(started) }}
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown() })
	return s.PacketConn.LocalAddr().String()
}

// forgeKey puts a key in the place of another, as a change of the zone would that nobody signed.
func forgeKey(was, is crypt.PublicKey) *func(*dns.Msg) {
	change := strings.NewReplacer(base64.StdEncoding.EncodeToString(was[:]), base64.StdEncoding.EncodeToString(is[:]))
	forge := func(m *dns.Msg) {
		for _, rr := range m.Answer {
			if txt, ok := rr.(*dns.TXT); ok {
				for i := range txt.Txt {
					txt.Txt[i] = change.Replace(txt.Txt[i])
				}
			}
		}
	}
	return &forge
}

// Three domains with signed zones exchange mail both ways, a large letter too. The readers open
// what was written, and every spool is whole.
func TestFederation_Three(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{"a.example", "b.example", "c.example"}
	for _, name := range names {
		w.realm(name, nil)
	}
	w.secure()
	rings, attached := map[string]*crypt.PrivateKey{}, map[string][]byte{}
	for i, name := range names {
		from := w.servers[name]
		ch := w.signIn(from)
		rings[name] = w.ring(ch, from)
		attached[name] = bytes.Repeat([]byte{byte(i), 1, 2, 3, 4, 5, 6}, 5*mib/7)
		for _, other := range names {
			if to := w.servers[other]; to != from {
				w.sendLarge(ch, from, to, attached[name])
				if f, err := ch.Foreign(to.alice()); err != nil || f.Server != to.key() || f.Trust != crypt.TrustDNSSEC {
					t.Errorf("what %s says of the server of %s: %+v, %v", name, other, f, err)
				}
			}
		}
	}
	for _, name := range names {
		r := w.servers[name]
		r.await(w, "message delivered")
		for _, m := range r.awaitDelivered(w, 2) {
			from := strings.TrimPrefix(m.Source, "alice@")
			if !strings.Contains(m.From, "origin=proven") {
				t.Errorf("at %s: %+v", name, m)
			}
			l := r.open(w, m.ID, rings[name])
			got := new(bytes.Buffer)
			for _, a := range l.Attachments {
				b := make([]byte, a.Size)
				if _, err := a.Data.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				got.Write(b)
			}
			if l.Subject != "from "+from || len(l.Attachments) != 2 || !bytes.Equal(got.Bytes(), attached[from]) {
				t.Errorf("from %s to %s came %q with %d attachments of %d bytes", from, name, l.Subject, len(l.Attachments), got.Len())
			}
		}
		r.Must(w, "", "spool", "verify")
	}
}

// sendLarge sends data in two attachments.
func (w *world) sendLarge(ch *client.Channel, from, to *realm, data []byte) {
	w.Helper()
	half := len(data) / 2
	d := &letter.Draft{Time: time.Now(), Subject: "from " + from.domain, Text: []byte("hello"), Attachments: []letter.Attachment{
		{Name: "one", Size: int64(half), Data: bytes.NewReader(data[:half])},
		{Name: "two", Size: int64(len(data) - half), Data: bytes.NewReader(data[half:])},
	}}
	m, err := d.Seal(from.alice(), to.alice(), w.keyOf(ch, to))
	if err != nil {
		w.Fatal(err)
	}
	sent, err := ch.Send(m.Header, nil, m.Body, m.Attachments)
	if err != nil || !sent.Queued {
		w.Fatalf("sending: %+v, %v", sent, err)
	}
}

// ring returns alice's key.
func (w *world) ring(ch *client.Channel, r *realm) *crypt.PrivateKey {
	w.Helper()
	ring, _, err := client.Unseal(ch, r.alice(), []byte(cmtptest.Password))
	if err != nil {
		w.Fatal(err)
	}
	return ring.Keys[0].Key
}

// awaitDelivered waits until alice has n messages and the server's queue is empty.
func (r *realm) awaitDelivered(w *world, n int) (own []listed) {
	w.Helper()
	for _, m := range r.awaitList(w, n) {
		if m.Destination == "alice@"+r.domain {
			own = append(own, m)
		}
	}
	equal(w.T, "messages to alice@"+r.domain, len(own), n)
	return own
}

// open opens a message as its reader would.
func (r *realm) open(w *world, id string, key *crypt.PrivateKey) *letter.Letter {
	w.Helper()
	file := filepath.Join(w.TempDir(), "message")
	r.Must(w, "", "spool", "export", id, "--output", file)
	f, err := os.Open(file)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		w.Fatal(err)
	}
	l, err := letter.Open(f, info.Size(), []*crypt.PrivateKey{key})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// A record that was changed without the zone's key is no record: mail waits and says so, nothing
// is trusted by it, and once it is as it was mail flows.
func TestFederation_ForgedRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	other, err := keyfile.Load(filepath.Join(b.Data, "spool.key")) // any other key
	if err != nil {
		t.Fatal(err)
	}
	p := w.secure()
	p.forge.Store(forgeKey(b.key(), other.Public()))
	ch := w.signIn(a)
	w.send(ch, a, b.alice(), b.key(), "into the dark")
	line := a.await(w, "destination failed", "_cmtp.b.example")
	if !strings.Contains(line, "SERVFAIL") {
		t.Errorf("it failed so: %s", line)
	}
	a.awaitWaiting(w, "waiting", "_cmtp.b.example")
	if known := a.Must(w, "", "trust", "list"); known != "" {
		t.Errorf("known: %s", known)
	}
	equal(t, "messages at b", len(b.list(w)), 0)
	p.forge.Store(nil)
	a.Stop(t) // what DNS has failed to say is remembered for half a minute
	a.again(w, nil)
	b.awaitList(w, 1)
	if known := a.Must(w, "", "trust", "list"); !strings.Contains(known, "dnssec") || !strings.Contains(known, b.key().String()) {
		t.Errorf("known: %s", known)
	}
}
