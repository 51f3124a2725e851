package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

const mailboxes = 10000

// scale measures the real daemon on a spool with many messages.
func scale(l *lab) (*table, error) {
	s, err := l.site(1024, "")
	if err != nil {
		return nil, err
	}
	took, err := s.fill(l.messages)
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "A large spool",
		note: fmt.Sprintf("%d messages of 4 KiB in %d mailboxes, which the spool alone took in %.0f seconds. A start is that of the daemon's process, until it takes connections.\n"+
			"The kill comes under the load of 64 connections. SHA-256 is one goroutine that reads the same files; all of it from the page cache.", l.messages, mailboxes, took.Seconds()),
		header: []string{"", "figure", ""},
	}
	return t, errors.Join(s.starts(t), s.verify(t))
}

// fill stores the messages before there is a daemon.
func (s *site) fill(messages int) (took time.Duration, err error) {
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return 0, err
	}
	key, _, err := keyfile.LoadOrCreate(filepath.Join(s.data, "spool.key"))
	if err != nil {
		return 0, err
	}
	identity, _, err := keyfile.LoadOrCreate(filepath.Join(s.data, "server.key"))
	if err != nil {
		return 0, err
	}
	sp, err := spool.Open(s.spool(), spool.Options{FS: durable.OS, Key: key, Identity: identity})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = fill(sp, 128, messages, 4<<10)
	return time.Since(start), errors.Join(err, sp.Close())
}

func (s *site) spool() string { return filepath.Join(s.data, "spool") }

// starts measures starts, and the most that is resident.
func (s *site) starts(t *table) error {
	var most float64
	for _, start := range []struct {
		name   string
		rounds int
		target float64 // seconds
		before func() error
	}{
		{"start after a clean stop", s.rounds, 2, func() error { return nil }},
		{"start after a kill", s.rounds, 10, s.kill},
		{"start without an index", 1, 60, func() error { return os.RemoveAll(filepath.Join(s.spool(), "index")) }},
	} {
		var took series
		for range start.rounds {
			if err := start.before(); err != nil {
				return err
			}
			began := time.Now()
			cmd, err := s.serve()
			if err != nil {
				return err
			}
			took = append(took, time.Since(began).Seconds())
			kib, err := memory(cmd.Process.Pid, "VmHWM")
			if err != nil {
				return err
			}
			most = max(most, kib/1024)
			if err := end(cmd, syscall.SIGTERM); err != nil {
				return err
			}
		}
		t.add(start.name, fmt.Sprintf("%.2f s", took.median()), atMost(took.median(), start.target, " s"))
	}
	t.add("most resident at any of these", fmt.Sprintf("%.0f MiB", most), atMost(most, 300, " MiB"))
	return nil
}

// kill kills a daemon in the middle of its work.
func (s *site) kill() error {
	cmd, err := s.serve()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		s.accept(s.addr, 0, 64, 4096, 1<<20) // it is cut off
		close(done)
	}()
	time.Sleep(300 * time.Millisecond)
	err = end(cmd, os.Kill)
	<-done
	return err
}

// verify compares how fast the spool is proven with how fast its bytes are hashed.
func (s *site) verify(t *table) error {
	r, err := s.each(2, func(cell int) (float64, error) {
		if cell == 0 {
			return hashRate(filepath.Join(s.spool(), "log"))
		}
		return s.verifyRate()
	})
	if err != nil {
		return err
	}
	t.add("verify, MB/s", number(r[1].median()), "")
	t.add("SHA-256, MB/s", number(r[0].median()), "verify ÷ SHA-256 "+verdict(r[1].over(r[0]).median(), 0.7))
	return nil
}

func (s *site) verifyRate() (float64, error) {
	cmd := s.command("spool", "verify", "--json")
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start)
	var report struct{ Bytes float64 }
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil {
		return 0, fmt.Errorf("cmtpd spool verify: %w\n%s", err, out)
	}
	return report.Bytes / 1e6 / took.Seconds(), nil
}

// hashRate hashes all files of a directory and returns MB/s.
func hashRate(dir string) (float64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var total int64
	sum, buf := sha256.New(), make([]byte, 1<<20)
	start := time.Now()
	for _, e := range files {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, buf)
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) / 1e6 / time.Since(start).Seconds(), nil
}
