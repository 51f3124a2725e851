package daemon

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
	"cmtpd/internal/status"
)

// metrics are what an operator can watch. They implement session.Observer and channel.Observer.
type metrics struct {
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
	commits  *commits
	reload   prometheus.Gauge   // 1: the last one failed
	restart  prometheus.Gauge   // settings that wait for one
	keyOK    prometheus.Counter // commands{KEYREQUEST,ok}: asked for too often to be looked up
	fetchOK  prometheus.Counter // commands{FETCH,ok}, as well
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		commits:  newCommits(),
		limits:   newLimits(),
		traffic:  status.NewTraffic(),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_commands_total", Help: "CMTP commands by verb and whether they were answered."}, []string{"verb", "result"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_messages_total", Help: "CMTP messages by what became of them."}, []string{"outcome"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_message_bytes_total", Help: "Bytes of CMTP messages by what became of the message."}, []string{"outcome"}),
	}
	m.guesses = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cmtpd_guesses_total", Help: "Attempts at passwords and codes of invitations, by what became of them."}, []string{"result"})
	m.fetched = prometheus.NewCounter(prometheus.CounterOpts{Name: "cmtpd_fetched_bytes_total", Help: "Bytes of messages that were sent to their readers."})
	m.shakes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cmtpd_handshake_seconds", Help: "Set-ups of CMTP 1's channel, by outcome.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 10}}, []string{"outcome"})
	m.reload = prometheus.NewGauge(prometheus.GaugeOpts{Name: "cmtpd_config_reload_failed", Help: "1 when the configuration could not be reloaded the last time that it was tried: an older one is in force."})
	m.restart = prometheus.NewGauge(prometheus.GaugeOpts{Name: "cmtpd_config_restart_needed", Help: "Settings that have changed in the file and wait for a restart."})
	m.keyOK = m.commands.WithLabelValues(cmtp.KeyRequest.String(), "ok")
	m.fetchOK = m.commands.WithLabelValues(cmtp.Fetch.String(), "ok")
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "cmtpd_build_info", Help: "1, labelled with the version, that of Go, and the revision of the source."},
		[]string{"version", "go", "revision"})
	build.WithLabelValues(version, runtime.Version(), revision()).Set(1)
	m.makeSessions()
	m.registry.MustRegister(m.reload, m.restart)
	m.registry.MustRegister(m.commands, m.messages, m.bytes, m.guesses, m.fetched, m.shakes, m.commits.records, m.commits.seconds, build,
		m.sessions, m.seconds, m.passed, m.failures, m.limits, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Command implements session.Observer.
func (m *metrics) Command(v cmtp.Verb, ok bool) {
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
func (m *metrics) Message(o session.Outcome, bytes int64) {
	m.messages.WithLabelValues(string(o)).Inc()
	m.bytes.WithLabelValues(string(o)).Add(float64(bytes))
	if o == session.Stored || o == session.Queued {
		m.traffic.Add(status.In, time.Now())
	}
}

// Guess implements session.Observer.
func (m *metrics) Guess(result session.Guess, n int) {
	m.guesses.WithLabelValues(string(result)).Add(float64(n))
}

// Fetched implements session.Observer.
func (m *metrics) Fetched(bytes int64) { m.fetched.Add(float64(bytes)) }

// reloaded notes what became of a reload, and how many settings wait for a restart.
func (m *metrics) reloaded(ok bool, waiting int) {
	if !ok {
		m.reload.Set(1)
		return
	}
	m.reload.Set(0)
	m.restart.Set(float64(waiting))
}

// watchWaits adds how many clients wait for news.
func (m *metrics) watchWaits(boxes *mailbox.Mailboxes) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cmtpd_waits", Help: "Clients that wait for news of their mailboxes now."},
		func() float64 { return float64(boxes.Waiting()) }))
}

// Handshake implements channel.Observer.
func (m *metrics) Handshake(o channel.Outcome, took time.Duration) {
	m.shakes.WithLabelValues(string(o)).Observe(took.Seconds())
	if o == channel.Busy {
		m.limits.hit("max_handshakes")
	}
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
