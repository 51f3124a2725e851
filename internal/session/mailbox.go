package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// box returns the mailbox of the session's user (docs/protocol.md, Part III).
func (p *part2) box() (*mailbox.Box, error) {
	a := p.proven()
	if a == nil {
		return nil, errNotReader
	}
	if p.own == nil || p.owner != a {
		p.own, p.owner = p.cfg.Mailboxes.Of(spool.MailboxID(a.ID), a.Address.String()), a
	}
	return p.own, nil
}

// boxCommand is command for those of the mailbox.
func (p *part2) boxCommand(ctx context.Context, c *cmtp.Command, reply []byte) ([]byte, action, error) {
	box, err := p.box()
	switch c.Verb {
	case cmtp.Flag:
		return p.announce(reply, p.cmdFlag(ctx, err))
	case cmtp.Delete:
		return p.announce(reply, p.cmdDelete(ctx, err))
	}
	if err != nil {
		return reply, next, err
	}
	switch c.Verb {
	case cmtp.Fetch:
		return p.cmdFetch(box, c, reply)
	case cmtp.Wait:
		return p.cmdWait(c, reply)
	}
	start := len(reply)
	reply = cmtp.AppendReplyHead(reply, cmtp.StatusDone, 0)
	head := len(reply)
	if reply, err = appendAnswer(reply, box, c); err != nil {
		return reply[:start], next, err
	}
	cmtp.AppendReplyHead(reply[:start], cmtp.StatusDone, uint64(len(reply)-head))
	return reply, next, nil
}

// appendAnswer appends what MAILBOX, LIST and CHANGES answer.
func appendAnswer(reply []byte, box *mailbox.Box, c *cmtp.Command) ([]byte, error) {
	switch c.Verb {
	case cmtp.Mailbox:
		s, err := box.State()
		return s.Append(reply), err
	case cmtp.List:
		q, err := cmtp.ParseListQuery(c.Fixed)
		if err != nil {
			return reply, parameter(err)
		}
		page, err := box.List(q)
		return appendPage(reply, page, err)
	}
	q, err := cmtp.ParseChangesQuery(c.Fixed)
	if err != nil {
		return reply, parameter(err)
	}
	page, err := box.Changes(q)
	return appendPage(reply, page, err)
}

func appendPage(reply []byte, page *cmtp.Page, err error) ([]byte, error) {
	if err != nil {
		return reply, err
	}
	return page.Append(reply), nil
}

// parameter makes a query that cannot be asked what it is: no form is wrong with it.
func parameter(err error) error { return fmt.Errorf("%w: %w", errParameter, err) }

// cmdFetch finds what is to be sent; the driver sends it.
func (p *part2) cmdFetch(box *mailbox.Box, c *cmtp.Command, reply []byte) ([]byte, action, error) {
	q, err := cmtp.ParseFetchQuery(c.Fixed)
	if err == nil {
		p.body, err = box.Fetch(q, &p.reading)
	}
	if err != nil {
		return reply, next, err
	}
	return reply, stream, nil
}

func (p *part2) cmdWait(c *cmtp.Command, reply []byte) ([]byte, action, error) {
	q, err := cmtp.ParseWaitQuery(c.Fixed)
	if err != nil {
		return reply, next, parameter(err)
	}
	p.wait = q
	return reply, await, nil
}

// cmdFlag and cmdDelete go on with the form where the user is proven then, too.
func (p *part2) cmdFlag(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	p.pending = func(form []byte) ([]byte, error) {
		items, err := cmtp.ParseFlagForm(form)
		if err != nil {
			return nil, err
		}
		box, err := p.box()
		if err != nil {
			return nil, err
		}
		results, err := box.Flag(context.WithoutCancel(ctx), items)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(results, func(r cmtp.FlagResult) bool { return r.Status == cmtp.StatusNoRoom }) {
			p.cfg.Observer.Refused(cmtp.StatusNoRoom, MinFreeSpace)
		}
		var b []byte
		for i := range results {
			b = results[i].Append(b)
		}
		return b, nil
	}
	return nil
}

func (p *part2) cmdDelete(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	p.pending = func(form []byte) ([]byte, error) {
		numbers, err := cmtp.ParseDeleteForm(form)
		if err != nil {
			return nil, err
		}
		box, err := p.box()
		if err != nil {
			return nil, err
		}
		n, gone, err := box.Delete(context.WithoutCancel(ctx), numbers)
		if n > 0 {
			p.tellOf("messages deleted", gone)
		}
		return cmtp.AppendDeleted(nil, uint32(n)), err
	}
	return nil
}

// errCut ends a session within a payload.
var errCut = errors.New("a message was not sent to its end")

// stream answers FETCH. Small messages share their writes with other replies; of any other the client has to take
// bytes as fast as it would have to send them.
func (s *session) stream(p *part2) error {
	body := p.body
	p.body = nil
	defer body.Close()
	id, ends := body.Message()
	if body.Size() <= flushAt {
		out := s.wide(body.Size())
		start := len(*out)
		*out = cmtp.AppendReplyHead(*out, cmtp.StatusDone, uint64(body.Size()))
		if _, err := body.WriteTo((*gatherer)(out)); err != nil { // nothing has left yet
			*out = (*out)[:start]
			s.outcome(cmtp.Fetch, err, "")
			s.refuseWith(err)
			return nil
		}
		s.outcome(cmtp.Fetch, nil, "")
		s.cfg.Observer.Fetched(body.Size())
		if ends {
			s.noteFetched(id)
		}
		if len(*out) >= gatherAt {
			return s.flushAside()
		}
		return nil
	}
	s.reply(cmtp.AppendReplyHead(nil, cmtp.StatusDone, uint64(body.Size())))
	if err := s.flush(); err != nil {
		return err
	}
	n, err := body.WriteTo(&pacedWriter{session: s})
	s.cfg.Observer.Command(cmtp.Fetch, err == nil) // the spool logs what is damaged
	s.cfg.Observer.Fetched(n)
	if err != nil {
		return fmt.Errorf("%w: %v", errCut, err) // no 421 may follow, so the error is not a timeout
	}
	if ends {
		s.noteFetched(id)
	}
	s.rearm()
	return nil
}

// A gatherer appends what is written to it.
type gatherer []byte

func (g *gatherer) Write(p []byte) (int, error) {
	*g = append(*g, p...)
	return len(p), nil
}

// A pacedWriter writes to the client and holds it to the least rate, as a pacedReader does.
type pacedWriter struct {
	*session
	total  int64 // bytes written
	waited time.Duration
}

// Write has paceSize bytes pay at a time: the client has earned its time by what came before those, however much is
// written at once.
func (w *pacedWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = w.pay(p[:min(len(p), paceSize)])
		written, p = written+n, p[n:]
	}
	return written, err
}

const paceSize = 64 << 10

func (w *pacedWriter) pay(p []byte) (int, error) {
	start := time.Now()
	deadline := start.Add(w.cfg.MessageGrace + earned(w.total, w.cfg.MinRate, w.cfg.SessionTimeout) - w.waited)
	if deadline.After(w.ends) {
		deadline = w.ends
	}
	w.conn.SetWriteDeadline(deadline)
	n, err := w.writeRecords(p)
	w.waited += time.Since(start)
	w.total += int64(n)
	return n, err
}

// writeRecords writes a record at a time: the channel would copy several, to save a system call, and of so many bytes
// that costs more than it saves.
func (w *pacedWriter) writeRecords(p []byte) (written int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = w.pipe.Write(p[:min(len(p), flushAt)])
		written, p = written+n, p[n:]
	}
	return written, err
}

// awaitNews answers WAIT. Meanwhile the session is one that waits for a command, with a
// word in the list of those who are to be woken: it has no goroutine or timer besides.
func (s *session) awaitNews(p *part2) error {
	q := p.wait
	ends := time.Now().Add(time.Duration(q.Seconds) * time.Second)
	if err := s.flush(); err != nil {
		return err
	}
	s.tellFetched()
	box, err := p.box()
	var w *mailbox.Wait
	if err == nil {
		w, err = box.Wait(s.conn.Wake)
	}
	if err != nil {
		s.outcome(cmtp.Wait, err, "")
		s.refuseWith(err)
		return nil
	}
	defer func() {
		w.End()
		s.conn.Woken() // nobody waits for it any more
		s.rearm()
	}()
	for {
		s.conn.Woken() // whatever woke us is seen now
		answered, err := s.tell(p, &q, ends)
		if err != nil || answered {
			return err
		}
		if err := s.doze(ends); err != nil {
			return err
		}
	}
}

// tell answers a WAIT if there is something to say, or nothing more to wait for.
func (s *session) tell(p *part2, q *cmtp.WaitQuery, ends time.Time) (answered bool, err error) {
	over := len(s.in.Buffered()) > 0 || !time.Now().Before(ends)
	box, err := p.box()
	var page *cmtp.Page
	if err == nil {
		page, err = box.Changes(q.Changes())
	}
	if err != nil {
		s.outcome(cmtp.Wait, err, "")
		s.refuseWith(err)
		return true, nil
	}
	if len(page.Entries) == 0 && !over {
		return false, nil
	}
	s.outcome(cmtp.Wait, nil, "")
	s.reply(cmtp.AppendReply(nil, cmtp.StatusDone, page.Append(nil)))
	return true, nil
}

// doze waits until the client sends something, somebody wakes us, or the time is over.
func (s *session) doze(ends time.Time) error {
	if ends.After(s.ends) {
		ends = s.ends
	}
	s.conn.SetReadDeadline(ends)
	s.conn.SetIdle(true)
	err := s.in.Fill()
	s.conn.SetIdle(false)
	if errors.Is(err, os.ErrDeadlineExceeded) && !s.conn.Stopping() && time.Now().Before(s.ends) {
		return nil
	}
	return err
}
