package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/trust"
)

// A trustCollector shows what is known of other servers' keys, as it is when somebody asks.
type trustCollector struct {
	store *trust.Store

	domains, held, damaged, changes, full *prometheus.Desc
}

func newTrustCollector(s *trust.Store) *trustCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &trustCollector{
		store:   s,
		domains: desc("cmtpd_trust_domains", "Domains of which something is remembered."),
		held:    desc("cmtpd_trust_held", "Domains of which a server is held: see cmtpd trust list --held."),
		damaged: desc("cmtpd_trust_damaged", "Domains that are held because what was remembered of them is damaged."),
		changes: desc("cmtpd_trust_changes_total", "Changes of what is remembered of domains, and new holds, since the start."),
		full:    desc("cmtpd_trust_full_total", "How often a new domain could not be met because delivery.known_domains are remembered, and none may be forgotten."),
	}
}

// ShowTrust adds what the store of other servers' keys knows.
func (m *Metrics) ShowTrust(s *trust.Store) { m.registry.MustRegister(newTrustCollector(s)) }

// EnforceTested is a federation.Config.Tested.
func (m *Metrics) EnforceTested() { m.tested.Inc() }

// newTested counts what domains ask to be told of.
func newTested() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "cmtpd_enforce_tests_total",
		Help: "Meetings with a domain of mode=testing that its mode=enforce would have stopped."})
}

// Describe implements prometheus.Collector.
func (c *trustCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.domains, c.held, c.damaged, c.changes, c.full} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *trustCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.store.Stats()
	ch <- prometheus.MustNewConstMetric(c.domains, prometheus.GaugeValue, float64(st.Domains))
	ch <- prometheus.MustNewConstMetric(c.held, prometheus.GaugeValue, float64(st.Held))
	ch <- prometheus.MustNewConstMetric(c.damaged, prometheus.GaugeValue, float64(st.Damaged))
	ch <- prometheus.MustNewConstMetric(c.changes, prometheus.CounterValue, float64(st.Changes))
	ch <- prometheus.MustNewConstMetric(c.full, prometheus.CounterValue, float64(st.Full))
}
