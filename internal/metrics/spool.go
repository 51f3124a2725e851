package metrics

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// commits are what is counted of the spool's commits.
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

// Flushed is a spool.Options.Flushed.
func (m *Metrics) Flushed(records int, took time.Duration) {
	m.commits.records.Observe(float64(records))
	m.commits.seconds.Observe(took.Seconds())
}

// ShowSpool adds what the spool in dir knows of itself, and minFree: the bytes of free space below which mail
// is refused now.
func (m *Metrics) ShowSpool(s *spool.Spool, dir string, minFree func() uint64) {
	m.registry.MustRegister(newSpoolCollector(s, dir))
	m.showGauge("cmtpd_disk_free_min_bytes", "Free space below which mail is refused: limits.min_free_space.",
		func() float64 { return float64(minFree()) })
}

// A spoolCollector shows the spool's numbers as they are when somebody asks, all of one moment.
type spoolCollector struct {
	spool *spool.Spool
	dir   string
	sizes sizes

	head, messages, bytes, segments, memory, damage, failed, scrubbed, log, index, free *prometheus.Desc
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
		scrubbed: desc("cmtpd_spool_scrubbed_timestamp_seconds", "When the spool was last read to its end in the background; 0 when it was not since the start."),
		log:      desc("cmtpd_spool_log_bytes", "Bytes on disk of the spool's log. Messages with a file of their own are not in it."),
		index:    desc("cmtpd_spool_index_bytes", "Bytes on disk of the spool's index."),
		free:     desc("cmtpd_disk_free_bytes", "Free space of the spool's file system; mail is refused below limits.min_free_space."),
	}
}

// Describe implements prometheus.Collector.
func (c *spoolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.head, c.messages, c.bytes, c.segments, c.memory, c.damage, c.failed, c.scrubbed, c.log, c.index, c.free} {
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
	scrubbed := 0.0
	if !st.Scrubbed.IsZero() {
		scrubbed = float64(st.Scrubbed.Unix())
	}
	log, index := c.sizes.of(c.dir)
	for _, m := range []struct {
		desc  *prometheus.Desc
		value float64
	}{
		{c.head, float64(st.Head.Number)}, {c.messages, float64(st.Messages)}, {c.bytes, float64(st.Bytes)},
		{c.segments, float64(st.Segments)}, {c.memory, float64(st.Memory)}, {c.damage, float64(st.Damage)}, {c.failed, failed},
		{c.scrubbed, scrubbed}, {c.log, float64(log)}, {c.index, float64(index)},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value)
	}
	if free, err := durable.FreeSpace(c.dir); err == nil {
		ch <- prometheus.MustNewConstMetric(c.free, prometheus.GaugeValue, float64(free))
	}
}

// sizesEvery is how often the files of the spool are counted at most: there may be thousands.
const sizesEvery = time.Minute

// sizes are what the spool's log and index take on disk.
type sizes struct {
	mu         sync.Mutex
	asked      time.Time
	log, index int64
}

func (s *sizes) of(dir string) (log, index int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.asked) >= sizesEvery {
		s.asked = now
		s.log, s.index = filesIn(filepath.Join(dir, "log")), filesIn(filepath.Join(dir, "index"))
	}
	return s.log, s.index
}

// filesIn returns the bytes of a directory's files. What goes away meanwhile counts nothing.
func filesIn(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}
