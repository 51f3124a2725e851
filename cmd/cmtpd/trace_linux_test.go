package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// TestServe_FlushedFirst reads the daemon's system calls: SUCCESS is not written
// before a flush of the log has returned that began when the message had been read
// to its end and stood in the log; and where the message has a file of its own, that
// file and its name were flushed before. One sender who waits for each answer costs a flush for
// each message; many, and one who does not wait, share theirs.
func TestServe_FlushedFirst(t *testing.T) {
	cmtptest.Need(t, "strace")
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.large_message": `"16KiB"`})
	path := filepath.Join(site.Dir, "trace")
	site.Program = traced(t, site.Dir, cmtptest.Release(t), path)
	d := site.Start(t)
	alone, ahead := &mailer{name: "alone", messages: 20}, &mailer{name: "ahead", messages: 50, ahead: true}
	mailers := []*mailer{alone, ahead}
	for _, m := range mailers {
		if err := m.send(d.Shared[0]); err != nil {
			t.Fatal(err)
		}
	}
	var running sync.WaitGroup
	for i := range 16 {
		m := &mailer{name: fmt.Sprint("m", i), messages: 10, large: i%4 == 0}
		mailers = append(mailers, m)
		running.Go(func() {
			if err := m.send(d.Shared[0]); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	d.Stop(t)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	calls := parseTrace(string(text))
	total := 0
	for _, m := range mailers {
		total += m.messages
		if err := m.check(calls); err != nil {
			t.Error(err)
		}
	}
	replies := alone.calls(calls, "write", "SUCCESS")
	if len(replies) != alone.messages {
		t.Fatalf("the trace has %d replies for %d messages", len(replies), alone.messages)
	}
	single, all := logFlushes(calls, replies[0].end, replies[len(replies)-1].start)
	equal(t, "flushes of the log between one sender's first reply and its last", single, alone.messages-1)
	if n := ahead.batches(calls); n == 0 || n >= ahead.messages/2 {
		t.Errorf("%d messages of one sender, who did not wait, were written in %d batches", ahead.messages, n)
	}
	if all >= total {
		t.Errorf("%d flushes of the log for %d messages: none was shared", all, total)
	}
	t.Logf("%d flushes of the log for %d messages", all, total)
}

// traced returns a program that runs another one under strace, which writes to path
// and stays behind it, so that the process is the program's own.
func traced(t *testing.T, dir, program, path string) string {
	t.Helper()
	script := filepath.Join(dir, "traced")
	text := fmt.Sprintf("#!/bin/sh\nexec strace -D -f --seccomp-bpf -yy -s 1000000 -e trace=read,write,writev,sendto,pwrite64,fdatasync,fsync -o '%s' '%s' \"$@\"\n", path, program)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

// Where the files of a spool lie, as strace shows them.
const (
	segments   = "/spool/log/"
	unfinished = "/spool/tmp/"
	largeFiles = "/spool/large>"
)

// A call is a system call of a trace. It was entered at the line start and had
// returned at the line end, 0 if it never did.
type call struct {
	name       string
	args       string
	result     string
	start, end int
}

// is reports whether c is a call that succeeded, and all of the words stand in its arguments.
func (c *call) is(name string, words ...string) bool {
	if c.name != name || strings.HasPrefix(c.result, "-") {
		return false
	}
	for _, w := range words {
		if !strings.Contains(c.args, w) {
			return false
		}
	}
	return true
}

var (
	traceLine   = regexp.MustCompile(`^(\d+) +(?:(\w+)\(|<\.\.\. \w+ resumed>)(.*)$`)
	traceResult = regexp.MustCompile(`^(.*)\) += (.*)$`)
)

// parseTrace reads what "strace -f" writes. A call that others interrupt stands in two lines.
func parseTrace(text string) (calls []*call) {
	open := make(map[string]*call) // by thread
	at := 0
	for line := range strings.Lines(text) {
		at++
		m := traceLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue // a signal, or an end
		}
		c := open[m[1]]
		if m[2] != "" {
			c = &call{name: m[2], start: at}
			calls = append(calls, c)
		} else if c == nil {
			continue // a call that had begun before the trace
		}
		rest, isOpen := strings.CutSuffix(m[3], " <unfinished ...>")
		c.args += rest
		if isOpen {
			open[m[1]] = c
			continue
		}
		delete(open, m[1])
		if m := traceResult.FindStringSubmatch(c.args); m != nil {
			c.args, c.result, c.end = m[1], m[2], at
		}
	}
	return calls
}

// A mailer sends messages to the server itself over one connection, each when the
// one before was acknowledged, or all of them ahead.
type mailer struct {
	name     string
	messages int
	large    bool
	ahead    bool
	address  string // once it has connected
}

// mark returns what stands in one message and nowhere else.
func (m *mailer) mark(n int) string { return fmt.Sprintf("<%s %d>", m.name, n) }

func (m *mailer) send(to string) error {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	m.address = c.LocalAddr().String()
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	size := 400
	if m.large {
		size = 40 << 10
	}
	texts, step := make([]string, m.messages), 1
	for n := range texts {
		text := announce(int64(size)) + m.mark(n)
		texts[n] = text + strings.Repeat("x", len(announce(int64(size)))+size-len(text))
	}
	if m.ahead {
		step = m.messages
	}
	for at := 0; at < m.messages; at += step {
		if _, err := io.WriteString(c, strings.Join(texts[at:at+step], "")); err != nil {
			return err
		}
		for n := at; n < at+step; n++ {
			if _, err := cmtp.ReadWord(in); err != nil {
				return fmt.Errorf("%s: %w", m.mark(n), err)
			}
		}
	}
	return nil
}

// calls returns the calls on the mailer's connection in whose arguments a word stands.
func (m *mailer) calls(all []*call, name, word string) (found []*call) {
	for _, c := range all {
		if c.is(name, "->"+m.address+"]", word) {
			found = append(found, c)
		}
	}
	return found
}

// logFlushes returns how many flushes of the log there were between two lines of the trace, and in all.
func logFlushes(calls []*call, from, to int) (between, all int) {
	for _, c := range calls {
		if !c.is("fdatasync", segments) {
			continue
		}
		all++
		if from < c.start && c.start < to {
			between++
		}
	}
	return between, all
}

// batches returns how many writes to the log hold messages of the mailer's.
func (m *mailer) batches(all []*call) (n int) {
	for _, c := range all {
		if c.is("pwrite64", segments, "<"+m.name+" ") {
			n++
		}
	}
	return n
}

// replies returns for each SUCCESS the call that wrote it.
func (m *mailer) replies(all []*call) (list []*call) {
	for _, c := range m.calls(all, "write", `"SUCCESS`) {
		for range strings.Count(c.args, "SUCCESS") {
			list = append(list, c)
		}
	}
	return list
}

// check proves for each message that what makes it durable lies between the last that was
// read of it and its reply; or, of one that was sent ahead, only before its reply.
func (m *mailer) check(all []*call) error {
	replies, reads := m.replies(all), m.calls(all, "read", "")
	if m.ahead {
		reads = nil
	}
	if len(replies) != m.messages {
		return fmt.Errorf("%s: the trace has %d replies for %d messages", m.name, len(replies), m.messages)
	}
	for n, reply := range replies {
		read := 0
		for _, r := range reads {
			if r.end < reply.start && r.result != "0" {
				read = max(read, r.end)
			}
		}
		steps := []step{{"pwrite64", []string{segments, m.mark(n)}}, {"fdatasync", []string{segments}}}
		if m.large {
			steps = []step{{"fdatasync", []string{m.file(all, n)}}, {"fsync", []string{largeFiles}}, {"pwrite64", []string{segments}}, {"fdatasync", []string{segments}}}
		}
		if err := inOrder(all, read, reply.start, steps); err != nil {
			return fmt.Errorf("message %s: between its last byte and SUCCESS: %w", m.mark(n), err)
		}
	}
	return nil
}

// file returns the path that a large message was written to.
func (m *mailer) file(all []*call, n int) string {
	for _, c := range all {
		if c.is("pwrite64", unfinished, m.mark(n)) {
			return c.args[strings.Index(c.args, "<")+1 : strings.Index(c.args, ">")]
		}
	}
	return "no file that it was written to"
}

// A step is a call and words in its arguments.
type step struct {
	name  string
	words []string
}

// inOrder looks for calls of which each was entered when the one before had returned, all
// between two lines of the trace.
func inOrder(all []*call, after, before int, steps []step) error {
	for _, s := range steps {
		found := false
		for _, c := range all {
			if found = c.start > after && c.end != 0 && c.is(s.name, s.words...); found {
				after = c.end
				break
			}
		}
		if !found || after >= before {
			return fmt.Errorf("no %s of %q had returned", s.name, s.words)
		}
	}
	return nil
}
