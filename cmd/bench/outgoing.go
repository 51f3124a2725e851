package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/control"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

// A bodyPart is a message's body in memory.
type bodyPart []byte

// Size implements cmtp.Part.
func (p bodyPart) Size() int64 { return int64(len(p)) }

// WriteTo implements cmtp.Part.
func (p bodyPart) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

// within opens a site's spool while there is no daemon.
func (s *site) within(do func(*spool.Spool) error) error {
	key, err := keyfile.Load(filepath.Join(s.data, "spool.key"))
	if err != nil {
		return err
	}
	identity, err := keyfile.Load(filepath.Join(s.data, "server.key"))
	if err != nil {
		return err
	}
	sp, err := spool.Open(s.spool(), spool.Options{FS: durable.OS, Key: key, Identity: identity})
	if err != nil {
		return err
	}
	return errors.Join(do(sp), sp.Close())
}

// enqueue stores messages from alice for other servers, as if she had handed them in. The
// destination's domain of each is told by its number, and noted is called with its ID.
func (s *site) enqueue(sp *spool.Spool, messages, size int, domain func(n int) string, noted func(n int, id spool.ID)) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	var errs [64]error
	for i := range errs {
		wg.Go(func() {
			body := make(bodyPart, size)
			binary.BigEndian.PutUint64(body, s.serial())
			for n := next.Add(1) - 1; n < int64(messages) && errs[i] == nil; n = next.Add(1) - 1 {
				binary.BigEndian.PutUint64(body[8:], uint64(n))
				var id spool.ID
				if id, errs[i] = s.submit(sp, domain(int(n)), body); errs[i] == nil && noted != nil {
					noted(int(n), id)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

func (s *site) submit(sp *spool.Spool, domain string, body bodyPart) (spool.ID, error) {
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(len(body)),
		DestinationAccount: "alice", DestinationDomain: domain, SourceAccount: "alice", SourceDomain: s.domain}
	w := sp.NewWriter()
	defer w.Abort()
	var text bytes.Buffer
	digest, err := cmtp.WriteDigested(&text, h, nil, body, nil)
	if err != nil {
		return 0, err
	}
	w.Write(text.Bytes()) // Commit has its error
	stored, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID(account.Outgoing), Digest: digest, Received: time.Now(), From: "127.0.0.1"})
	return stored.ID, err
}

func (s *site) control() *control.Client { return control.Dial(filepath.Join(s.data, "control.sock")) }

// waitTime is the longest that anything of a queue is waited for.
const waitTime = 2 * time.Minute

// await asks again until ok: a daemon gives no signal.
func (l *lab) await(what string, ok func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitTime); ; {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", waitTime, what)
		}
	}
}
