package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// flushes counts with strace how often the disk is waited for.
func flushes(l *lab) (*table, error) {
	t := &table{
		title: "Flushes",
		note: "fdatasync and fsync calls of the daemon by message of 4 KiB, counted by strace from the moment that it listens. Those beside the log's are for\n" +
			"segments that are written ahead and for index files: no message waits for them.",
		header: []string{"connections", "of the log, a message", "of other files, a message", ""},
	}
	for _, load := range []struct {
		conns, messages int
		target          float64
	}{{64, 40000, 0.06}, {1, 3000, 1}} {
		log, others, err := l.countFlushes(load.conns, load.messages)
		if err != nil {
			return nil, err
		}
		t.add(fmt.Sprint(load.conns), fmt.Sprintf("%.4f", log), fmt.Sprintf("%.4f", others), atMost(log, load.target, ""))
	}
	return t, nil
}

var flushCall = regexp.MustCompile(`\b(?:fdatasync|fsync)\(\d+<([^>]*)>`)

func (l *lab) countFlushes(conns, messages int) (log, others float64, err error) {
	s, err := l.site(1024, "")
	if err != nil {
		return 0, 0, err
	}
	trace := filepath.Join(filepath.Dir(s.conf), "trace")
	// With -D the process is the daemon, and strace ends behind it.
	cmd, err := s.serve("strace", "-D", "-f", "--seccomp-bpf", "-y", "-e", "trace=fdatasync,fsync,listen", "-o", trace)
	if err != nil {
		return 0, 0, err
	}
	if _, err := l.accept(s.addr, 0, conns, 4096, messages); err != nil {
		return 0, 0, err
	}
	if err := end(cmd, syscall.SIGTERM); err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		return 0, 0, err
	}
	sent := float64(messages / conns * conns)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " listen(") {
			log, others = 0, 0 // the start is over
		}
		switch m := flushCall.FindStringSubmatch(line); {
		case m == nil:
		case strings.HasSuffix(m[1], ".seg"):
			log += 1 / sent
		default:
			others += 1 / sent
		}
	}
	return log, others, nil
}
