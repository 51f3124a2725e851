package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/queue"
	"cmtpd/internal/status"
)

// Deliveries count what became of mail for other servers, and show what waits for them, as it is when somebody asks.
// They implement queue.Observer.
type Deliveries struct {
	queue     *queue.Queue // not written after ShowQueue
	delivered *prometheus.CounterVec
	refused   *prometheus.CounterVec
	traffic   *status.Traffic

	messages, held, destinations, workers, oldest *prometheus.Desc
}

func newDeliveries(traffic *status.Traffic) *Deliveries {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	c := &Deliveries{
		traffic: traffic,
		refused: counters("cmtpd_delivery_failures_total", "Attempts at messages or destinations that failed, by the reason.", "reason"),
		delivered: counters("cmtpd_deliveries_total",
			"Messages for other servers by what became of an attempt: delivered, deferred, failed for good.", "outcome"),
		messages:     desc("cmtpd_queue_messages", "Messages that wait for other servers."),
		held:         desc("cmtpd_queue_held", "Of them, those that the operator holds."),
		destinations: desc("cmtpd_queue_destinations", "Domains that they are for."),
		workers:      desc("cmtpd_queue_connections", "Connections to other servers that deliver now."),
		oldest:       desc("cmtpd_queue_oldest_seconds", "Age of the oldest of them; 0 when there is none."),
	}
	for _, outcome := range []string{"delivered", "deferred", "failed"} {
		c.delivered.WithLabelValues(outcome)
	}
	for _, reason := range reasons {
		c.refused.WithLabelValues(reason)
	}
	c.refused.WithLabelValues("unanswered")
	return c
}

// Deliveries returns the observer for a queue, which is to be shown by ShowQueue.
func (m *Metrics) Deliveries() *Deliveries { return newDeliveries(m.traffic) }

// ShowQueue adds what the queue knows, and what its observer has counted.
func (m *Metrics) ShowQueue(q *queue.Queue, counted *Deliveries) {
	counted.queue = q
	m.registry.MustRegister(counted)
}

// Refused implements queue.Observer.
func (c *Deliveries) Refused(status uint16) {
	reason := "unanswered"
	if status != 0 {
		reason = reasonOf(cmtp.Status(status))
	}
	c.refused.WithLabelValues(reason).Inc()
}

// Delivered implements queue.Observer.
func (c *Deliveries) Delivered(n int) {
	c.delivered.WithLabelValues("delivered").Add(float64(n))
	for range n {
		c.traffic.Add(status.Out, time.Now())
	}
}

// Deferred implements queue.Observer.
func (c *Deliveries) Deferred(n int) { c.delivered.WithLabelValues("deferred").Add(float64(n)) }

// Failed implements queue.Observer.
func (c *Deliveries) Failed(n int) { c.delivered.WithLabelValues("failed").Add(float64(n)) }

// Describe implements prometheus.Collector.
func (c *Deliveries) Describe(ch chan<- *prometheus.Desc) {
	c.delivered.Describe(ch)
	c.refused.Describe(ch)
	for _, d := range []*prometheus.Desc{c.messages, c.held, c.destinations, c.workers, c.oldest} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Deliveries) Collect(ch chan<- prometheus.Metric) {
	c.delivered.Collect(ch)
	c.refused.Collect(ch)
	st := c.queue.Stats()
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(c.messages, float64(st.Queued))
	gauge(c.held, float64(st.Held))
	gauge(c.destinations, float64(st.Destinations))
	gauge(c.workers, float64(st.Workers))
	age := 0.0
	if !st.Oldest.IsZero() {
		age = time.Since(st.Oldest).Seconds()
	}
	gauge(c.oldest, age)
}
