package discovery

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Cached returns how many answers a Finder keeps.
func (f *Finder) Cached() int {
	c := f.resolver.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest.Len()
}

// SetCacheSize changes how many answers a Finder keeps from now on.
func (f *Finder) SetCacheSize(n int) { f.resolver.cache.size = n }

// CacheSize returns how many answers a Finder keeps.
func (f *Finder) CacheSize() int { return f.resolver.cache.size }

// MaxQuestions is how many questions may be under way.
const MaxQuestions = maxQuestions

// SetResolvers makes a Finder ask others from now on.
func (f *Finder) SetResolvers(servers ...string) {
	f.resolver.servers = func() []string { return servers }
}

// SystemResolvers returns what lists the resolvers of a resolv.conf.
func SystemResolvers(path string, now func() time.Time) func() []string {
	return (&system{path: path, now: now}).servers
}

// An Answer is what a message of a resolver comes to.
type Answer struct {
	Hosts  []string
	Addrs  []netip.Addr
	Record *Record
	TTL    time.Duration
	Links  int
}

// Read takes a message as the answer to a question. It reports whether it ends it.
func Read(m *dns.Msg, name string, qtype uint16) (Answer, bool, error) {
	r := reader{question: question{name, qtype}, name: name, ttl: maxTTL, shuffle: func(int, func(i, j int)) {}}
	done, err := r.read(m)
	a := Answer{Addrs: r.addrs, Record: r.record, TTL: r.ttl, Links: r.links}
	for _, h := range r.hosts {
		a.Hosts = append(a.Hosts, h.name)
	}
	return a, done, err
}

// Joined returns the bytes of a TXT record's strings.
func Joined(parts ...string) string { return joined(parts) }
