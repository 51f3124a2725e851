package daemon

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/relay"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
	"cmtpd/internal/status"
)

// makeSessions makes what is counted of sessions. Every series is there from the start, so that the first
// of a kind is an increase, as alerts need it.
func (m *metrics) makeSessions() {
	m.sessions = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_sessions_total", Help: "Sessions that have ended, by protocol and how."}, []string{"protocol", "outcome"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cmtpd_session_seconds", Help: "How long sessions lasted, by protocol.",
		Buckets: []float64{.01, .1, 1, 10, 60, 600, 3600}}, []string{"protocol"})
	m.passed = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_smtp_bytes_total", Help: "Bytes of SMTP sessions that were passed on: in, to the mail server, and out, to clients."}, []string{"direction"})
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_failures_total", Help: "CMTP commands and messages that were not done, by the reason."}, []string{"reason"})
	for _, o := range relay.Outcomes {
		m.sessions.WithLabelValues("smtp", string(o))
	}
	for _, protocol := range []string{"cmtp", "cmtp/1"} {
		for _, e := range session.Ends {
			m.sessions.WithLabelValues(protocol, string(e))
		}
	}
	for _, how := range []string{"left", "timeout", "stopped"} {
		m.sessions.WithLabelValues("silent", how)
	}
	m.sessions.WithLabelValues("neither", "refused")
	for _, o := range session.Outcomes {
		m.messages.WithLabelValues(string(o))
		m.bytes.WithLabelValues(string(o))
	}
	for _, g := range session.AllGuesses {
		m.guesses.WithLabelValues(string(g))
	}
	for _, o := range channel.Outcomes {
		m.shakes.WithLabelValues(string(o))
	}
	for _, protocol := range []string{"smtp", "cmtp", "cmtp/1"} {
		m.seconds.WithLabelValues(protocol)
	}
	for _, reason := range reasons {
		m.failures.WithLabelValues(reason)
	}
	for _, direction := range []string{"in", "out"} {
		m.passed.WithLabelValues(direction)
	}
}

// reasons name the statuses of CMTP 1 in labels.
var reasons = map[cmtp.Status]string{
	cmtp.StatusClosing: "closing", cmtp.StatusTooOften: "too_often", cmtp.StatusTrouble: "trouble", cmtp.StatusNoRoom: "no_room",
	cmtp.StatusPeerUnreached: "peer_unreached", cmtp.StatusPeerDistrusted: "peer_distrusted", cmtp.StatusUnknownCommand: "unknown_command",
	cmtp.StatusBadParameter: "bad_parameter", cmtp.StatusNotNow: "not_now", cmtp.StatusNotProven: "not_proven", cmtp.StatusWrongProof: "wrong_proof",
	cmtp.StatusNoAccount: "no_account", cmtp.StatusForeignDomain: "foreign_domain", cmtp.StatusTooLarge: "too_large",
	cmtp.StatusForeignSource: "foreign_source", cmtp.StatusBadMessage: "bad_message", cmtp.StatusBadSystem: "bad_system", cmtp.StatusNoMail: "no_mail",
	cmtp.StatusStale: "stale", cmtp.StatusBadInvitation: "bad_invitation", cmtp.StatusBadStatement: "bad_statement",
	cmtp.StatusSwitchedOff: "switched_off", cmtp.StatusNoMessage: "no_message", cmtp.StatusChanged: "changed",
}

// reasonOf returns the label for a status, also for one that another server made up.
func reasonOf(s cmtp.Status) string {
	if name, ok := reasons[s]; ok {
		return name
	}
	return "other"
}

// Refused implements session.Observer.
func (m *metrics) Refused(s cmtp.Status, l session.Limit) {
	m.failures.WithLabelValues(reasonOf(s)).Inc()
	if l != session.NoLimit {
		m.limits.hit(string(l))
	}
}

// Ended implements session.Observer.
func (m *metrics) Ended(protocol string, how session.End, took time.Duration) {
	m.sessions.WithLabelValues(protocol, string(how)).Inc()
	m.seconds.WithLabelValues(protocol).Observe(took.Seconds())
	m.traffic.Add(status.CMTP, time.Now())
}

// relayed is a relay.Config.Ended.
func (m *metrics) relayed(e relay.End) {
	m.sessions.WithLabelValues("smtp", string(e.Outcome)).Inc()
	m.seconds.WithLabelValues("smtp").Observe(e.Took.Seconds())
	m.passed.WithLabelValues("in").Add(float64(e.Up))
	m.passed.WithLabelValues("out").Add(float64(e.Down))
	m.traffic.Add(status.SMTP, time.Now())
}

// unspoken is a front.Config.Ended.
func (m *metrics) unspoken(protocol, how string) { m.sessions.WithLabelValues(protocol, how).Inc() }

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
)

func newLimits() *limits {
	l := &limits{names: []string{capTotal, capAddress, capRate, "max_handshakes"}, met: make(map[string]*atomic.Uint64),
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

// watch adds the figures that the parts keep themselves.
func (m *metrics) watch(f *front.Server, s *spool.Spool, cfg func() *config.Config) {
	m.limits.front = f
	counter := func(name, help string, labels prometheus.Labels, get func(front.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(get(f.Stats())) }))
	}
	counter("cmtpd_connections_total", "Connections that came, refused ones included.", nil, func(s front.Stats) uint64 { return s.Accepted })
	const refused, refusedHelp = "cmtpd_connections_refused_total", "Connections refused, by the reason."
	counter(refused, refusedHelp, prometheus.Labels{"cap": "total"}, func(s front.Stats) uint64 { return s.RefusedTotal })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "address"}, func(s front.Stats) uint64 { return s.RefusedAddress })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "rate"}, func(s front.Stats) uint64 { return s.RefusedRate })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "proxy_header"}, func(s front.Stats) uint64 { return s.BadProxy })
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cmtpd_connections_open", Help: "Connections open now."},
		func() float64 { return float64(f.Stats().Open) }))
	m.registry.MustRegister(newSpoolCollector(s, cfg().SpoolDir()))
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cmtpd_disk_free_min_bytes", Help: "Free space below which mail is refused: limits.min_free_space."},
		func() float64 { return float64(cfg().Limits.MinFreeSpace) }))
}

// watchReady adds what /readyz says.
func (m *metrics) watchReady(state func() (status.State, bool)) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cmtpd_ready", Help: "1 while mail is taken; /readyz says why it is not."},
		func() float64 {
			if _, ready := state(); ready {
				return 1
			}
			return 0
		}))
}
