package cmtptest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// A Knot is a real name server, Knot DNS, for zones of its own.
type Knot struct {
	Addr string // host:port
}

// StartKnot serves zones, each by its name without a final dot as text in zone
// file form, until the test is over. It signs them itself, or serves them with the
// signatures that the text has.
func StartKnot(t testing.TB, sign bool, zones map[string]string) *Knot {
	t.Helper()
	Need(t, "knotd")
	dir := peerDir(t, "knot")
	k := &Knot{Addr: freePort(t)}
	names := slices.Sorted(maps.Keys(zones))
	signing := map[bool]string{true: "on", false: "off"}[sign]
	conf := strings.NewReplacer("DIR", dir, "ADDR", strings.Replace(k.Addr, ":", "@", 1), "SIGNING", signing).Replace(knotConf)
	for _, name := range names {
		check(t, os.WriteFile(filepath.Join(dir, name+".zone"), []byte(zones[name]), 0o644))
		conf += "  - domain: " + name + "\n"
	}
	check(t, os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(conf), 0o644))
	startPeer(t, "knotd", "-c", filepath.Join(dir, "knot.conf"))
	for _, name := range names {
		await(t, "Knot to serve "+name, func() bool {
			m := k.ask(name, dns.TypeSOA)
			return m != nil && hasType(m.Answer, dns.TypeSOA) && (!sign || hasType(m.Answer, dns.TypeRRSIG))
		})
	}
	return k
}

const knotConf = `server:
    listen: ADDR
    rundir: DIR
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: DIR
acl:
  - id: local
    address: 127.0.0.1
    action: transfer
template:
  - id: default
    storage: DIR
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: difference-no-serial
    journal-content: all
    dnssec-signing: SIGNING
    acl: local
zone:
`

// ask returns what the server says, or nil.
func (k *Knot) ask(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(dns.DefaultMsgSize, true)
	m, err := dns.Exchange(q, k.Addr)
	if err != nil {
		return nil
	}
	return m
}

func hasType(records []dns.RR, qtype uint16) bool {
	return slices.ContainsFunc(records, func(rr dns.RR) bool { return rr.Header().Rrtype == qtype })
}

// Anchor returns the keys that a validating resolver has to begin with for a zone
// that Knot has signed, as records.
func (k *Knot) Anchor(t testing.TB, zone string) (keys []string) {
	t.Helper()
	m := k.ask(zone, dns.TypeDNSKEY)
	if m == nil {
		t.Fatalf("Knot does not say the keys of %s", zone)
	}
	for _, rr := range m.Answer {
		if key, ok := rr.(*dns.DNSKEY); ok && key.Flags&dns.SEP != 0 {
			keys = append(keys, key.String())
		}
	}
	if len(keys) == 0 {
		t.Fatalf("%s has no key to begin with", zone)
	}
	return keys
}

// Records returns a zone as it is served, signatures included, one record a line.
func (k *Knot) Records(t testing.TB, zone string) (lines []string) {
	t.Helper()
	envelopes, err := new(dns.Transfer).In(new(dns.Msg).SetAxfr(dns.Fqdn(zone)), k.Addr)
	check(t, err)
	for e := range envelopes {
		check(t, e.Error)
		for _, rr := range e.RR {
			lines = append(lines, rr.String())
		}
	}
	return lines[:len(lines)-1] // the SOA ends a transfer, too
}

// StartUnbound returns the host:port of a real resolver, Unbound, that knows where
// to ask for some zones, each by its name, and nothing else. It validates what lies
// below the anchors; with validate false, nothing. It stops with the test.
func StartUnbound(t testing.TB, validate bool, anchors []string, zones map[string]*Knot) string {
	t.Helper()
	Need(t, "unbound")
	dir, addr := peerDir(t, "unbound"), freePort(t)
	modules := map[bool]string{true: "validator iterator", false: "iterator"}[validate]
	conf := strings.NewReplacer("DIR", dir, "ADDR", strings.Replace(addr, ":", "@", 1), "MODULES", modules).Replace(unboundConf)
	for _, a := range anchors {
		conf += fmt.Sprintf("    trust-anchor: %q\n", strings.ReplaceAll(a, "\t", " "))
	}
	conf += "remote-control:\n    control-enable: no\n"
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		conf += fmt.Sprintf("stub-zone:\n    name: %q\n    stub-addr: %s\n", name, strings.Replace(zones[name].Addr, ":", "@", 1))
	}
	check(t, os.WriteFile(filepath.Join(dir, "unbound.conf"), []byte(conf), 0o644))
	startPeer(t, "unbound", "-d", "-c", filepath.Join(dir, "unbound.conf"))
	await(t, "Unbound to answer", func() bool {
		_, err := dns.Exchange(new(dns.Msg).SetQuestion("localhost.", dns.TypeA), addr)
		return err == nil
	})
	return addr
}

const unboundConf = `server:
    directory: "DIR"
    pidfile: "DIR/unbound.pid"
    chroot: ""
    username: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    interface: ADDR
    do-ip6: no
    do-not-query-localhost: no
    num-threads: 1
    ede: yes
    val-log-level: 1
    val-bogus-ttl: 1
    module-config: "MODULES"
`

// peerDir returns a directory that is gone after the test. It is not t.TempDir's: a
// socket's path must be short.
func peerDir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", name)
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startPeer runs a program in the foreground until the test is over, and shows
// what it wrote when the test has failed.
func startPeer(t testing.TB, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", program, out.Bytes())
		}
	})
}
