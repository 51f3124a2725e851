package discovery

import "time"

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
