package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// acceptances compares how fast messages are accepted for good.
func acceptances(l *lab) (*table, error) {
	p, err := l.postfix()
	if err != nil {
		return nil, err
	}
	master, err := p.master()
	if err != nil {
		return nil, err
	}
	addr, cmd, err := l.cmtpd(1024, "")
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "Durable acceptance",
		note: "Messages accepted for good: by CMTP into cmtpd's spool, and by smtp-source into Postfix' hold queue (no log), on the same disk. Sessions are kept. Round trips a message:\n" +
			"one by CMTP (MAIL and message, SUCCESS), four by SMTP (MAIL, RCPT, DATA, message). \"Bare\" is a Go program that copies 4 KiB records of 64 goroutines into a file whose blocks are\n" +
			"written already, with one flush for all that wait, and has no network, no signature and no digest. \"Disk\" is 512 MiB written to a new file in pieces of 1 MiB, and one flush.",
		header: []string{"load", "Postfix", "cmtpd", "other", "ratio"},
	}
	if err := l.small(t, addr, cmd.Process.Pid, p.addr, master); err != nil {
		return nil, err
	}
	if err := l.single(t, addr, p.addr); err != nil {
		return nil, err
	}
	return t, l.big(t, addr, p.addr)
}

func (l *lab) small(t *table, cmtpd string, pid int, postfix string, master int) error {
	var runs []acceptance
	var cpu series
	s, err := l.each(3, func(cell int) (float64, error) {
		switch cell {
		case 0:
			before, err := cpuTime(master)
			if err != nil {
				return 0, err
			}
			const messages = 3000
			rate, err := smtpSource(64, messages, 4096, "-d")(postfix)
			if err != nil {
				return 0, err
			}
			after, err := cpuTime(master)
			cpu = append(cpu, (after-before).Seconds()/messages)
			return rate, err
		case 1:
			a, err := l.accept(cmtpd, pid, 64, 4096, 40000)
			runs = append(runs, a)
			return a.rate, err
		}
		return l.bareAppend(64, 4096, 2*time.Second)
	})
	if err != nil {
		return err
	}
	t.add("4 KiB, 64 connections, messages/s", number(s[0].median()), number(s[1].median()), "", "÷ Postfix "+verdict(s[1].over(s[0]).median(), 20))
	t.add("the same", "", number(s[1].median()), "bare "+number(s[2].median()), "÷ bare "+verdict(s[1].over(s[2]).median(), 0.4))
	var own, load, tail series
	for _, a := range runs {
		load = append(load, a.load.Seconds())
		own = append(own, a.cpu.Seconds())
		tail = append(tail, a.p99.Seconds()/a.p50.Seconds())
	}
	t.add("the same, processor time of the server a message, µs", number(cpu.median()*1e6), number(own.median()*1e6), "", "Postfix ÷ cmtpd "+verdict(cpu.over(own).median(), 10))
	t.add("the same, processor time of the load a message, µs", "", number(load.median()*1e6), "", "")
	last := runs[len(runs)-1]
	word := "met"
	if tail.median() > 4 {
		word = "**missed**"
	}
	t.add("the same, latency", "", fmt.Sprintf("p50 %v, p99 %v", last.p50.Round(10*time.Microsecond), last.p99.Round(10*time.Microsecond)), "", fmt.Sprintf("p99 ÷ p50 %.1f (target 4 at most: %s)", tail.median(), word))
	return nil
}

func (l *lab) single(t *table, cmtpd, postfix string) error {
	s, err := l.each(2, func(cell int) (float64, error) {
		if cell == 0 {
			return smtpSource(1, 600, 4096, "-d")(postfix)
		}
		a, err := l.accept(cmtpd, 0, 1, 4096, 3000)
		return a.rate, err
	})
	if err != nil {
		return err
	}
	t.add("4 KiB, one connection, messages/s", number(s[0].median()), number(s[1].median()), "", "÷ Postfix "+verdict(s[1].over(s[0]).median(), 3))
	return nil
}

func (l *lab) big(t *table, cmtpd, postfix string) error {
	s, err := l.each(3, func(cell int) (float64, error) {
		switch cell {
		case 0:
			return smtpSource(8, 240, 1<<20, "-d")(postfix)
		case 1:
			a, err := l.accept(cmtpd, 0, 8, 1<<20, 800)
			return a.rate, err
		}
		return l.sequential(512)
	})
	if err != nil {
		return err
	}
	t.add("1 MiB, 8 connections, messages/s", number(s[0].median()), number(s[1].median()), "", "÷ Postfix "+verdict(s[1].over(s[0]).median(), 3))
	t.add("the same, MiB/s", "", number(s[1].median()), "disk "+number(s[2].median()), "÷ disk "+verdict(s[1].over(s[2]).median(), 0.5))
	return nil
}

// bareAppend is the least that accepting for good can cost: records copied into a
// written file, one flush for all that wait.
func (l *lab) bareAppend(writers, size int, lasting time.Duration) (float64, error) {
	f, err := os.Create(filepath.Join(l.dir, "bare"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const segment = 256 << 20
	if err := prewrite(f, segment); err != nil {
		return 0, err
	}
	queue := make(chan appended, writers)
	var commits sync.WaitGroup
	commits.Go(func() { flushTogether(f, segment, queue) })
	var wg sync.WaitGroup
	counts := make([]int, writers)
	errs := make([]error, writers)
	start := time.Now()
	for i := range writers {
		wg.Go(func() {
			r := appended{make([]byte, size), make(chan error, 1)}
			for time.Since(start) < lasting && errs[i] == nil {
				queue <- r
				errs[i] = <-r.done
				counts[i]++
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	close(queue)
	commits.Wait()
	total := 0
	for i, n := range counts {
		if errs[i] != nil {
			return 0, errs[i]
		}
		total += n
	}
	return float64(total) / took.Seconds(), nil
}

// An appended record is one that its writer waits for.
type appended struct {
	record []byte
	done   chan error
}

// flushTogether writes what comes, over and over a segment of so many bytes, with one flush for all that wait, until the queue is closed.
func flushTogether(f *os.File, segment int64, queue <-chan appended) {
	var batch []byte
	var waiting []appended
	at := int64(0)
	for r := range queue {
		waiting = append(waiting[:0], r)
		batch = append(batch[:0], r.record...)
		for more := true; more; {
			select {
			case r, ok := <-queue:
				if more = ok; ok {
					waiting, batch = append(waiting, r), append(batch, r.record...)
				}
			default:
				more = false
			}
		}
		if at+int64(len(batch)) > segment {
			at = 0
		}
		_, err := f.WriteAt(batch, at)
		at += int64(len(batch))
		if err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		for _, w := range waiting {
			w.done <- err
		}
	}
}

func prewrite(f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(block)) {
		if _, err := f.WriteAt(block, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// sequential writes a new file and returns MiB/s, its flush included.
func (l *lab) sequential(mib int64) (float64, error) {
	f, err := os.Create(filepath.Join(l.dir, "sequential"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	start := time.Now()
	if err := prewrite(f, mib<<20); err != nil {
		return 0, err
	}
	return float64(mib) / time.Since(start).Seconds(), nil
}
