package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// commits are what is counted of the spool's commits. The spool calls it after each flush,
// with everybody waiting.
type commits struct {
	records prometheus.Histogram
	seconds prometheus.Histogram
}

func newCommits() *commits {
	return &commits{
		records: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cmtpd_spool_commit_records",
			Help:    "Messages and other records that one signed commit, and so one flush, made durable.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14)}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cmtpd_spool_commit_seconds",
			Help:    "How long signing, writing and flushing one commit took.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}),
	}
}

// flushed is a spool.Options.Flushed.
func (c *commits) flushed(records int, took time.Duration) {
	c.records.Observe(float64(records))
	c.seconds.Observe(took.Seconds())
}

// A spoolCollector shows the spool's numbers as they are when somebody asks, all of one moment.
type spoolCollector struct {
	spool *spool.Spool
	dir   string

	head, messages, bytes, segments, memory, damage, failed, free *prometheus.Desc
}

func newSpoolCollector(s *spool.Spool, dir string) *spoolCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &spoolCollector{
		spool: s, dir: dir,
		head:     desc("cmtpd_spool_head", "Number of the spool's last signed commit."),
		messages: desc("cmtpd_spool_messages", "Messages in the spool."),
		bytes:    desc("cmtpd_spool_bytes", "Bytes of all messages in the spool, as on the wire."),
		segments: desc("cmtpd_spool_segments", "Segments of the spool's log."),
		memory:   desc("cmtpd_spool_memory_bytes", "Memory that messages on their way in hold, up to limits.message_memory."),
		damage:   desc("cmtpd_spool_damage", "Places of the spool that are known to be damaged."),
		failed:   desc("cmtpd_spool_failed", "1 when the spool takes no more messages until cmtpd was started again."),
		free:     desc("cmtpd_disk_free_bytes", "Free space of the spool's file system; mail is refused below limits.min_free_space."),
	}
}

// Describe implements prometheus.Collector.
func (c *spoolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.head, c.messages, c.bytes, c.segments, c.memory, c.damage, c.failed, c.free} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *spoolCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.spool.Stats()
	failed := 0.0
	if st.Failed {
		failed = 1
	}
	for _, m := range []struct {
		desc  *prometheus.Desc
		value float64
	}{
		{c.head, float64(st.Head.Number)}, {c.messages, float64(st.Messages)}, {c.bytes, float64(st.Bytes)},
		{c.segments, float64(st.Segments)}, {c.memory, float64(st.Memory)}, {c.damage, float64(st.Damage)}, {c.failed, failed},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value)
	}
	if free, err := durable.FreeSpace(c.dir); err == nil {
		ch <- prometheus.MustNewConstMetric(c.free, prometheus.GaugeValue, float64(free))
	}
}
