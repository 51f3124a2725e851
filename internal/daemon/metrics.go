package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/front"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
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
	commits  *commits
	reload   prometheus.Gauge   // 1: the last one failed
	restart  prometheus.Gauge   // settings that wait for one
	keyOK    prometheus.Counter // commands{KEYREQUEST,ok}: asked for too often to be looked up
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		commits:  newCommits(),
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
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "cmtpd_build_info", Help: "1, labelled with the version."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.reload, m.restart)
	m.registry.MustRegister(m.commands, m.messages, m.bytes, m.guesses, m.fetched, m.shakes, m.commits.records, m.commits.seconds, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Command implements session.Observer.
func (m *metrics) Command(v cmtp.Verb, ok bool) {
	switch {
	case ok && v == cmtp.KeyRequest:
		m.keyOK.Inc()
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
}

// watch adds the figures that the parts keep themselves.
func (m *metrics) watch(f *front.Server, s *spool.Spool, dir string) {
	counter := func(name, help string, labels prometheus.Labels, get func(front.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(get(f.Stats())) }))
	}
	const sessions, sessionsHelp = "cmtpd_sessions_total", "Sessions by the protocol that their first command showed."
	counter(sessions, sessionsHelp, prometheus.Labels{"protocol": "smtp"}, func(s front.Stats) uint64 { return s.SMTP })
	counter(sessions, sessionsHelp, prometheus.Labels{"protocol": "cmtp"}, func(s front.Stats) uint64 { return s.CMTP })
	counter(sessions, sessionsHelp, prometheus.Labels{"protocol": "neither"}, func(s front.Stats) uint64 { return s.Neither })
	counter(sessions, sessionsHelp, prometheus.Labels{"protocol": "silent"}, func(s front.Stats) uint64 { return s.Silent })
	const refused, refusedHelp = "cmtpd_connections_refused_total", "Connections refused, by the reason."
	counter(refused, refusedHelp, prometheus.Labels{"cap": "total"}, func(s front.Stats) uint64 { return s.RefusedTotal })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "address"}, func(s front.Stats) uint64 { return s.RefusedAddress })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "rate"}, func(s front.Stats) uint64 { return s.RefusedRate })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "proxy_header"}, func(s front.Stats) uint64 { return s.BadProxy })
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cmtpd_connections_open", Help: "Connections open now."},
		func() float64 { return float64(f.Stats().Open) }))
	m.registry.MustRegister(newSpoolCollector(s, dir))
}

// listenMetrics serves the metrics where the configuration says so.
func (d *daemon) listenMetrics(ctx context.Context) error {
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.cfg.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("listening for metrics.listen: %w", err)
	}
	d.listens = append(d.listens, l)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	d.log.Info("metrics", "address", l.Addr().String())
	srv := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	d.serving = append(d.serving, serveHTTP(srv, l))
	return nil
}
