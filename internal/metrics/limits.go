package metrics

import (
	"iter"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/front"
	"cmtpd/internal/session"
)

// limits count how often each limit was met, by the name of its key in the configuration.
type limits struct {
	names []string
	met   map[string]*atomic.Uint64 // not written after newLimits
	front *front.Server             // knows of its own
	desc  *prometheus.Desc
}

// Limits that no session knows of.
const (
	capTotal   = "max_connections"
	capAddress = "max_connections_per_address"
	capRate    = "connection_rate"
	capFlood   = "flood_pause"
)

func newLimits() *limits {
	l := &limits{names: []string{capTotal, capAddress, capRate, capFlood, "max_handshakes"}, met: make(map[string]*atomic.Uint64),
		desc: prometheus.NewDesc("cmtpd_limits_hit_total", "How often a limit was met, by its key in the configuration.", []string{"limit"}, nil)}
	for _, name := range session.Limits {
		l.names = append(l.names, string(name))
	}
	for _, name := range l.names {
		l.met[name] = new(atomic.Uint64)
	}
	return l
}

func (l *limits) hit(name string) { l.met[name].Add(1) }

// count returns how often a limit was met.
func (l *limits) count(name string) uint64 {
	if l.front != nil {
		switch st := l.front.Stats(); name {
		case capTotal:
			return st.RefusedTotal
		case capAddress:
			return st.RefusedAddress
		case capRate:
			return st.RefusedRate
		case capFlood:
			return st.BarredTotal
		}
	}
	return l.met[name].Load()
}

// Describe implements prometheus.Collector.
func (l *limits) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

// Collect implements prometheus.Collector.
func (l *limits) Collect(ch chan<- prometheus.Metric) {
	for _, name := range l.names {
		ch <- prometheus.MustNewConstMetric(l.desc, prometheus.CounterValue, float64(l.count(name)), name)
	}
}

// LimitsMet yields each limit's key in the configuration, and how often it was met since the start.
func (m *Metrics) LimitsMet() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for _, name := range m.limits.names {
			if !yield(name, m.limits.count(name)) {
				return
			}
		}
	}
}
