// Package metrics counts what happens in the daemon, and shows it and what the daemon's parts know of themselves in the
// form that Prometheus reads. docs/operations.md has a row for each metric.
//
// It guarantees that counting waits for nobody, and that what is shown names no user and no client.
package metrics

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
	"cmtpd/internal/status"
)

// Metrics are what an operator can watch. They implement session.Observer and channel.Observer.
type Metrics struct {
	registry *prometheus.Registry
	commands *prometheus.CounterVec
	messages *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	guesses  *prometheus.CounterVec
	fetched  prometheus.Counter
	shakes   *prometheus.HistogramVec
	sessions *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	passed   *prometheus.CounterVec
	failures *prometheus.CounterVec
	limits   *limits
	traffic  *status.Traffic
	tested   prometheus.Counter
	commits  *commits
	reload   prometheus.Gauge   // 1: the last one failed
	restart  prometheus.Gauge   // settings that wait for one
	keyOK    prometheus.Counter // commands{KEYREQUEST,ok}: asked for too often to be looked up
	fetchOK  prometheus.Counter // commands{FETCH,ok}, as well
}

// New returns the metrics of a daemon of this version. Its parts are shown once there is a Show of each.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commits:  newCommits(),
		limits:   newLimits(),
		traffic:  status.NewTraffic(),
		tested:   newTested(),
		commands: counters("cmtpd_commands_total", "CMTP commands by verb and whether they were answered.", "verb", "result"),
		messages: counters("cmtpd_messages_total", "CMTP messages by what became of them.", "outcome"),
		bytes:    counters("cmtpd_message_bytes_total", "Bytes of CMTP messages by what became of the message.", "outcome"),
		guesses: counters("cmtpd_guesses_total", "Attempts at passwords and codes of invitations, by what became of them.",
			"result"),
		fetched: prometheus.NewCounter(prometheus.CounterOpts{Name: "cmtpd_fetched_bytes_total",
			Help: "Bytes of messages that were sent to their readers."}),
		shakes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cmtpd_handshake_seconds",
			Help:    "Set-ups of CMTP 1's channel, by outcome.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 10}}, []string{"outcome"}),
		reload: prometheus.NewGauge(prometheus.GaugeOpts{Name: "cmtpd_config_reload_failed",
			Help: "1 when the configuration could not be reloaded the last time that it was tried: an older one is in force."}),
		restart: prometheus.NewGauge(prometheus.GaugeOpts{Name: "cmtpd_config_restart_needed",
			Help: "Settings that have changed in the file and wait for a restart."}),
	}
	m.keyOK = m.commands.WithLabelValues(cmtp.KeyRequest.String(), "ok")
	m.fetchOK = m.commands.WithLabelValues(cmtp.Fetch.String(), "ok")
	m.makeSessions()
	m.registry.MustRegister(m.commands, m.messages, m.bytes, m.guesses, m.fetched, m.shakes, m.reload, m.restart, m.tested,
		m.commits.records, m.commits.seconds, m.sessions, m.seconds, m.passed, m.failures, m.limits, buildInfo(version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// showGauge shows what value returns whenever somebody asks.
func (m *Metrics) showGauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// buildInfo is the number 1, with labels that say what is running.
func buildInfo(version string) prometheus.Collector {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "cmtpd_build_info",
		Help: "1, labelled with the version, that of Go, and the revision of the source."}, []string{"version", "go", "revision"})
	v.WithLabelValues(version, runtime.Version(), revision()).Set(1)
	return v
}

// Command implements session.Observer.
func (m *Metrics) Command(v cmtp.Verb, ok bool) {
	switch {
	case ok && v == cmtp.KeyRequest:
		m.keyOK.Inc()
	case ok && v == cmtp.Fetch:
		m.fetchOK.Inc()
	case ok:
		m.commands.WithLabelValues(v.String(), "ok").Inc()
	default:
		m.commands.WithLabelValues(v.String(), "failure").Inc()
	}
}

// Message implements session.Observer.
func (m *Metrics) Message(o session.Outcome, bytes int64) {
	m.messages.WithLabelValues(string(o)).Inc()
	m.bytes.WithLabelValues(string(o)).Add(float64(bytes))
	if o == session.Stored || o == session.Queued {
		m.traffic.Add(status.In, time.Now())
	}
}

// Guess implements session.Observer.
func (m *Metrics) Guess(result session.Guess, n int) {
	m.guesses.WithLabelValues(string(result)).Add(float64(n))
}

// Fetched implements session.Observer.
func (m *Metrics) Fetched(bytes int64) { m.fetched.Add(float64(bytes)) }

// Reloaded notes what became of a reload, and how many settings wait for a restart.
func (m *Metrics) Reloaded(ok bool, waiting int) {
	if !ok {
		m.reload.Set(1)
		return
	}
	m.reload.Set(0)
	m.restart.Set(float64(waiting))
}

// ShowMailboxes adds how many clients wait for news.
func (m *Metrics) ShowMailboxes(boxes *mailbox.Mailboxes) {
	m.showGauge("cmtpd_waits", "Clients that wait for news of their mailboxes now.", func() float64 { return float64(boxes.Waiting()) })
}

// Handshake implements channel.Observer.
func (m *Metrics) Handshake(o channel.Outcome, took time.Duration) {
	m.shakes.WithLabelValues(string(o)).Observe(took.Seconds())
	if o == channel.Busy {
		m.limits.hit("max_handshakes")
	}
}

// Traffic returns the counts of the last hour.
func (m *Metrics) Traffic() *status.Traffic { return m.traffic }

// Handler shows the metrics to who asks. How many may ask at once is for the caller to bound.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Timeout: 20 * time.Second})
}

// revision returns which source the program was built from, "" where that is not known.
func revision() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
