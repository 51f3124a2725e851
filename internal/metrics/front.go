package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/front"
	"cmtpd/internal/status"
)

// ShowFront adds what the front knows of connections. The limits that it keeps are met from then on.
func (m *Metrics) ShowFront(f *front.Server) {
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
	counter(refused, refusedHelp, prometheus.Labels{"cap": "flood_pause"}, func(s front.Stats) uint64 { return s.RefusedFlood })
	counter(refused, refusedHelp, prometheus.Labels{"cap": "proxy_header"}, func(s front.Stats) uint64 { return s.BadProxy })
	counter("cmtpd_clients_barred_total", "Times that a client was barred for not waiting to be refused.", nil, func(s front.Stats) uint64 { return s.BarredTotal })
	counter("cmtpd_listener_packets_dropped_total", "Packets that the kernel dropped at the listeners: of barred clients, and for want of room in the queue.", nil,
		func(s front.Stats) uint64 { return s.Dropped })
	m.showGauge("cmtpd_clients_barred", "Clients barred now.", func() float64 { return float64(f.Stats().Barred) })
	m.showGauge("cmtpd_connections_open", "Connections open now.", func() float64 { return float64(f.Stats().Open) })
}

// ShowReady adds what /readyz says.
func (m *Metrics) ShowReady(state func() (status.State, bool)) {
	m.showGauge("cmtpd_ready", "1 while mail is taken; /readyz says why it is not.", func() float64 {
		if _, ready := state(); ready {
			return 1
		}
		return 0
	})
}
