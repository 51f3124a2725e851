package main_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/queue"
)

// A world is a DNS server and the servers of some domains, each a real process on a
// loopback address of its own.
type world struct {
	*testing.T
	dns     *dnstest.Server
	zone    map[string]string // by domain
	servers map[string]*realm
}

// A realm is the server of one domain.
type realm struct {
	*cmtptest.Site
	*cmtptest.Daemon
	domain   string
	settings cmtptest.Settings
}

func newWorld(t *testing.T) *world {
	return &world{T: t, dns: dnstest.Start(t, "example. 60 SOA ns.example. root.example. 1 60 60 60 60\n"), zone: map[string]string{}, servers: map[string]*realm{}}
}

// realm starts the server of a domain with the user alice, and publishes it in DNS.
func (w *world) realm(domain string, settings cmtptest.Settings) *realm {
	w.Helper()
	all := cmtptest.Settings{
		"listen.addresses": `["` + cmtptest.Loopback() + `:0"]`,
		"hostname":         `"mx.` + domain + `"`, "domains": `["` + domain + `"]`, "dns.resolver": `"` + w.dns.Addr + `"`,
		"delivery.loopback": "true", "delivery.retry_min": `"1s"`, "delivery.retry_max": `"2s"`, "log.level": `"debug"`,
	}
	for k, v := range settings {
		all[k] = v
	}
	r := &realm{Site: cmtptest.NewSite(w, all), domain: domain, settings: all}
	r.Must(w, cmtptest.Password+"\n", "user", "add", "alice@"+domain, "--password-stdin")
	r.again(w, nil)
	w.servers[domain] = r
	w.publish(r, r.key())
	return r
}

// again starts a server that was stopped or never ran, with some settings changed. Unless they
// say otherwise it has the address that it had.
func (r *realm) again(w *world, settings cmtptest.Settings) {
	w.Helper()
	for k, v := range settings {
		r.settings[k] = v
	}
	if err := os.WriteFile(r.Config, []byte(r.settings.TOML()), 0o600); err != nil {
		w.Fatal(err)
	}
	r.Daemon = r.Site.Start(w)
	r.settings["listen.addresses"] = `["` + r.Shared[0] + `"]`
}

// key returns the key of the server.
func (r *realm) key() crypt.PublicKey {
	k, err := keyfile.Load(filepath.Join(r.Data, "server.key"))
	if err != nil {
		panic(err)
	}
	return k.Public()
}

// publish puts a server into DNS, with a key.
func (w *world) publish(r *realm, key crypt.PublicKey) {
	w.Helper()
	w.lead(r.domain, r.Shared[0], key, "")
}

// lead puts into DNS that a domain's server, with a key, is at host:port, and more records.
func (w *world) lead(domain, addr string, key crypt.PublicKey, more string) {
	w.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		w.Fatal(err)
	}
	w.zone[domain] = fmt.Sprintf("%[1]s. 1 MX 10 mx.%[1]s.\nmx.%[1]s. 1 A %[4]s\n_cmtp.%[1]s. 1 TXT \"v=CMTP1; p=%[2]s; port=%[3]s\"\n",
		domain, base64.StdEncoding.EncodeToString(key[:]), port, host) + more
	w.dns.SetZone(w, w.zoneText())
}

// zoneText is all that is in DNS.
func (w *world) zoneText() string {
	text := "example. 1 SOA ns.example. root.example. 1 60 60 60 1\n"
	for _, z := range w.zone {
		text += z
	}
	return text
}

// signIn returns a channel to r in which alice is proven, and her key.
func (w *world) signIn(r *realm) *client.Channel {
	w.Helper()
	d := client.Dialer{Timeout: time.Minute}
	_, ch, err := d.Open(w.Context(), r.Shared[0], true)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { ch.Close() })
	ch.Accept()
	ring, _, err := client.Unseal(ch, r.alice(), []byte(cmtptest.Password))
	if err != nil {
		w.Fatal(err)
	}
	if _, err := ch.Auth(r.alice(), ring.Keys[0].Key); err != nil {
		w.Fatal(err)
	}
	return ch
}

func (r *realm) alice() address.Address {
	a, err := address.Parse("alice@" + r.domain)
	if err != nil {
		panic(err)
	}
	return a
}

// send has alice at one server write to a name at another, whose key is asked for there.
func (w *world) send(ch *client.Channel, from *realm, to address.Address, key crypt.PublicKey, subject string) {
	w.Helper()
	m, err := (&letter.Draft{Time: time.Now(), Subject: subject, Text: []byte("hello")}).Seal(from.alice(), to, key)
	if err != nil {
		w.Fatal(err)
	}
	sent, err := ch.Send(m.Header, nil, m.Body, m.Attachments)
	if err != nil || !sent.Queued {
		w.Fatalf("sending: %+v, %v", sent, err)
	}
}

// keyOf asks the server of ch for the key of alice at another one.
func (w *world) keyOf(ch *client.Channel, at *realm) crypt.PublicKey {
	w.Helper()
	foreign, err := ch.Foreign(at.alice())
	if err != nil {
		w.Fatal(err)
	}
	return foreign.History.Current().Key
}

// A listed is a message as spool list --json shows it.
type listed struct {
	ID, Source, Destination string
	Digest                  string   `json:"core_digest"`
	From                    string   `json:"from_address"`
	Log                     []string `json:"log"`
}

func (r *realm) list(w *world) (all []listed) {
	w.Helper()
	if err := json.Unmarshal([]byte(r.Must(w, "", "spool", "list", "--json")), &all); err != nil {
		w.Fatal(err)
	}
	return all
}

// waiting returns what is in the queue.
func (r *realm) waiting(w *world) []queue.Entry {
	w.Helper()
	return decode[[]queue.Entry](w.T, r.Must(w, "", "queue", "list", "--json"))
}

// awaitList waits until a server has n messages: several lines of its log are alike.
func (r *realm) awaitList(w *world, n int) []listed {
	w.Helper()
	return awaitN(w, n, r, func() []listed { return r.list(w) })
}

// awaitQueue is awaitList for what is in the queue.
func (r *realm) awaitQueue(w *world, n int) []queue.Entry {
	w.Helper()
	return awaitN(w, n, r, func() []queue.Entry { return r.waiting(w) })
}

// awaitWaiting waits until no message in the queue is on its way, and all have one of the words for a
// reason: an attempt is in the log before the queue shows it, and the next one follows soon.
func (r *realm) awaitWaiting(w *world, condition string, words ...string) (all []queue.Entry) {
	w.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	other := func(e queue.Entry) bool {
		return e.Condition != condition || !slices.ContainsFunc(words, func(word string) bool { return strings.Contains(e.Text+e.Reason, word) })
	}
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		if all = r.waiting(w); len(all) > 0 && !slices.ContainsFunc(all, other) {
			return all
		}
		if time.Now().After(end) {
			w.Fatalf("in the queue of %s: %+v\n%s", r.domain, all, r.Log())
		}
	}
}

func awaitN[T any](w *world, n int, r *realm, list func() []T) []T {
	w.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		all := list()
		if len(all) == n {
			return all
		}
		if time.Now().After(end) {
			w.Fatalf("%s has %d messages, not %d: %+v\n%s", r.domain, len(all), n, all, r.Log())
		}
	}
}

// await waits for a line of the log with all words.
func (r *realm) await(w *world, words ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	line, err := r.Await(ctx, words...)
	if err != nil {
		w.Fatalf("%v\n%s", err, r.Log())
	}
	return line
}

// Two servers that never heard of each other exchange mail by domain name alone. The
// receiver knows whose server vouches for it, and nothing is left in the sender's queue.
func TestFederation_Delivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	foreign, err := ch.Foreign(b.alice())
	if err != nil {
		t.Fatal(err)
	}
	if foreign.Server != b.key() || foreign.Trust != crypt.TrustDNS {
		t.Errorf("the other server's key is %v, trusted %v", foreign.Server, foreign.Trust)
	}
	w.send(ch, a, b.alice(), foreign.History.Current().Key, "across")
	b.await(w, "message stored", "alice@b.example")
	all := b.list(w)
	if len(all) != 1 || all[0].Source != "alice@a.example" || !strings.Contains(all[0].From, "origin=proven") {
		t.Errorf("arrived: %+v", all)
	}
	a.await(w, "delivered")
	if left := a.list(w); len(left) != 0 {
		t.Errorf("left behind: %+v", left)
	}
}

// A letter that the other server refuses is reported to its sender, in the sender's
// own mailbox, and to nobody else.
func TestFederation_Report(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	nobody, err := address.Parse("nobody@b.example")
	if err != nil {
		t.Fatal(err)
	}
	var refused *cmtp.StatusError
	if _, err := ch.Foreign(nobody); !errors.As(err, &refused) || refused.Status != cmtp.StatusNoAccount {
		t.Fatalf("the key of nobody: %v", err)
	}
	w.send(ch, a, nobody, b.key(), "to nobody")
	a.await(w, "a sender was told", "late=false")
	all := a.list(w)
	if len(all) != 1 || all[0].Destination != "alice@a.example" || all[0].Source != "@a.example" {
		t.Errorf("the report: %+v", all)
	}
	if got := b.list(w); len(got) != 0 {
		t.Errorf("the other server keeps %+v", got)
	}
}
