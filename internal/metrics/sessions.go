package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/relay"
	"cmtpd/internal/session"
	"cmtpd/internal/status"
)

// makeSessions makes what is counted of sessions. Every series is there from the start, so that the first
// of a kind is an increase, as alerts need it.
func (m *Metrics) makeSessions() {
	m.sessions = counters("cmtpd_sessions_total", "Sessions that have ended, by protocol and how.", "protocol", "outcome")
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cmtpd_session_seconds",
		Help: "How long sessions lasted, by protocol.", Buckets: []float64{.01, .1, 1, 10, 60, 600, 3600}}, []string{"protocol"})
	m.passed = counters("cmtpd_smtp_bytes_total",
		"Bytes of SMTP sessions that were passed on: in, to the mail server, and out, to clients.", "direction")
	m.failures = counters("cmtpd_failures_total", "CMTP commands and messages that were not done, by the reason.", "reason")
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
func (m *Metrics) Refused(s cmtp.Status, l session.Limit) {
	m.failures.WithLabelValues(reasonOf(s)).Inc()
	if l != session.NoLimit {
		m.limits.hit(string(l))
	}
}

// Ended implements session.Observer.
func (m *Metrics) Ended(protocol string, how session.End, took time.Duration) {
	m.sessions.WithLabelValues(protocol, string(how)).Inc()
	m.seconds.WithLabelValues(protocol).Observe(took.Seconds())
	m.traffic.Add(status.CMTP, time.Now())
}

// Relayed is a relay.Config.Ended.
func (m *Metrics) Relayed(e relay.End) {
	m.sessions.WithLabelValues("smtp", string(e.Outcome)).Inc()
	m.seconds.WithLabelValues("smtp").Observe(e.Took.Seconds())
	m.passed.WithLabelValues("in").Add(float64(e.Up))
	m.passed.WithLabelValues("out").Add(float64(e.Down))
	m.traffic.Add(status.SMTP, time.Now())
}

// Unspoken is a front.Config.Ended.
func (m *Metrics) Unspoken(protocol, how string) { m.sessions.WithLabelValues(protocol, how).Inc() }
