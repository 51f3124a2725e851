package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// fileSystems compares segments that grow with segments that were written ahead.
func fileSystems(l *lab) (*table, error) {
	t := &table{
		title: "Segments written ahead",
		note: "Messages of 4 KiB stored a second by the spool alone, without a network, on file systems of their own, each in a file on the same disk.\n" +
			"Rates of different file systems are not to be compared: the disk below is a file of the same one.",
		header: []string{"file system", "writers", "appended", "written ahead", "ahead ÷ appended"},
	}
	for _, kind := range []string{"ext4", "xfs"} {
		dir, err := l.mount(kind)
		if err != nil {
			return nil, err
		}
		for _, load := range []struct{ writers, messages int }{{1, 1500}, {64, 20000}} {
			s, err := l.each(2, func(cell int) (float64, error) {
				return storeOn(dir, load.writers, load.messages, cell == 0)
			})
			if err != nil {
				return nil, err
			}
			t.add(kind, fmt.Sprint(load.writers), number(s[0].median()), number(s[1].median()), fmt.Sprintf("%.2f", s[1].over(s[0]).median()))
		}
	}
	return t, nil
}

// mount makes a file system in a file and mounts it until the lab is closed.
func (l *lab) mount(kind string) (dir string, err error) {
	image := filepath.Join(l.dir, kind+".image")
	dir = filepath.Join(l.dir, kind)
	err = errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<30), os.Mkdir(dir, 0o700))
	if err != nil {
		return "", err
	}
	run := func(name string, args ...string) error {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
		}
		return nil
	}
	if err := run("mkfs."+kind, "-q", image); err != nil {
		return "", err
	}
	if err := run("mount", "-o", "loop", image, dir); err != nil {
		return "", err
	}
	l.atEnd(func() error { return run("umount", dir) })
	return dir, nil
}

// storeOn stores messages in a new spool and returns how many a second.
func storeOn(dir string, writers, messages int, appended bool) (rate float64, err error) {
	dir = filepath.Join(dir, "spool")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	key, err := crypt.GenerateKey()
	if err != nil {
		return 0, err
	}
	s, err := spool.Open(dir, spool.Options{FS: durable.OS, Key: key, Identity: key, SegmentSize: 16 << 20, NoSpare: appended})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if err := fill(s, 4, 100, 200<<10); err != nil { // the first segment is never written ahead
		return 0, err
	}
	start := time.Now()
	err = fill(s, writers, messages, 4<<10)
	return float64(messages) / time.Since(start).Seconds(), errors.Join(err, s.Close())
}

// fill stores messages of size bytes, spread over 10,000 mailboxes.
func fill(s *spool.Spool, writers, messages, size int) error {
	var next atomic.Int64
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			data := make([]byte, size)
			for n := next.Add(1); n <= int64(messages) && errs[i] == nil; n = next.Add(1) {
				binary.BigEndian.PutUint64(data, uint64(n))
				binary.BigEndian.PutUint64(data[8:], uint64(size))
				var box spool.MailboxID
				binary.BigEndian.PutUint64(box[:], 1+uint64(n)*7919%mailboxes)
				w := s.NewWriter()
				w.Write(data) // Commit has its error
				_, errs[i] = w.Commit(context.Background(), spool.Entry{Mailbox: box, Digest: sha256.Sum256(data[:16]), From: "192.0.2.1:4711"})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
