package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/spool"
)

// errOutOfStep ends a session after a message that was not read to its end.
var errOutOfStep = errors.New("the rest of a refused message was not read")

// mail receives one message, and answers it or gives it to the store, which comes to the same
// for the client. An error ends the session.
func (s *session) mail(ctx context.Context) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.messages++
	src := &pacedReader{session: s}
	m, err := cmtp.NewMessageReader(src, s.cfg.MaxMessage)
	if err != nil {
		var h *cmtp.Header
		if m != nil {
			h = m.Header()
		}
		return s.broken(src, h, err)
	}
	to, err := s.envelope(m.Header())
	if err != nil {
		return s.refuse(src, m, Refused, err)
	}
	w, err := s.cfg.Store.NewWriter()
	if err != nil {
		return s.refuse(src, m, Failed, err)
	}
	defer w.Abort()
	if from, err := copyMessage(w, m); err != nil {
		if from == writing {
			return s.refuse(src, m, Failed, err)
		}
		return s.broken(src, m.Header(), err)
	}
	return s.store(ctx, src, m, w, to)
}

// store gives a message to the store that was read to its end. Even a server that stops
// waits for the flush: the message may be there already.
func (s *session) store(ctx context.Context, src *pacedReader, m *cmtp.MessageReader, w Writer, to delivery) error {
	digest, err := m.Digest()
	if err != nil {
		return s.refuse(src, m, Failed, err)
	}
	if err := s.checkSender(m, digest, to); err != nil {
		return s.refuse(src, m, Refused, err)
	}
	if to.sender != (account.ID{}) {
		if err := s.cfg.Sending.take(to.sender, src.total); err != nil {
			return s.refuse(src, m, Refused, err)
		}
	}
	from := s.conn.Client.Addr().String()
	standing, err := s.provenance(ctx, m, digest, to)
	if err != nil {
		return s.refuse(src, m, Refused, err)
	}
	if standing != "" {
		from += " origin=" + standing
	}
	f := &flight{header: *m.Header(), bytes: src.total, to: to, digest: digest}
	if err := s.makeRoom(f.bytes); err != nil {
		return s.broken(src, m.Header(), err)
	}
	f.pending = w.Submit(spool.Entry{Mailbox: to.mailbox, Digest: digest, Received: s.cfg.Now(), From: from})
	s.launch(f)
	s.rearm()
	return nil
}

// refuse answers with a failure at once and then reads the rest of the message, so that
// the session stays in step; a rest that is too long ends the session.
func (s *session) refuse(src *pacedReader, m *cmtp.MessageReader, o Outcome, reason error) error {
	lost := s.settle()
	var digest *[32]byte
	if d, err := m.Digest(); err == nil { // it was read to its end
		digest = &d
	}
	s.fate(o, src.total, m.Header(), digest, "err", reason)
	s.refused(cmtp.Mail, reason)
	if lost != nil {
		return lost
	}
	s.refuseWith(reason)
	s.rearm()
	if err := s.flush(); err != nil {
		return err
	}
	if !drain(src, m) {
		return errOutOfStep
	}
	s.rearm()
	return nil
}

// drain reads what is left of a message and reports whether that was no more
// than drainBytes.
func drain(src *pacedReader, m *cmtp.MessageReader) bool {
	most := src.total + drainBytes
	buf := netbuf.Borrow()
	defer netbuf.GiveBack(buf)
	for src.total <= most {
		if _, err := m.Read(buf[:]); err != nil {
			return err == io.EOF
		}
	}
	return false
}

// broken ends a message that cannot be read on: one that breaks the format or a
// limit is refused, one that stops, or could not be answered, has nobody to be refused to.
func (s *session) broken(src *pacedReader, h *cmtp.Header, reason error) error {
	s.settle() // why the session ends is known already
	if h == nil {
		h = &cmtp.Header{}
	}
	for _, rule := range []error{cmtp.ErrMessage, cmtp.ErrTooLarge, cmtp.ErrSystem} {
		if errors.Is(reason, rule) {
			s.fate(Refused, src.total, h, nil, "err", reason)
			s.refused(cmtp.Mail, reason)
			s.refuseWith(reason)
			s.rearm()
			return fmt.Errorf("%w: %w", errOutOfStep, reason)
		}
	}
	s.fate(Broken, src.total, h, nil, "err", reason)
	return reason
}

// fate tells the log and the observer what became of a message, which has a digest if it was read to its end.
func (s *session) fate(o Outcome, bytes int64, h *cmtp.Header, digest *[32]byte, key string, value any) {
	s.cfg.Observer.Message(o, bytes)
	level := slog.LevelInfo
	if o == Failed {
		level = slog.LevelError
	}
	if !s.cfg.Log.Enabled(context.Background(), level) {
		return // making the line costs more than most of the rest
	}
	args := append(make([]any, 0, 10), key, value, "bytes", bytes,
		"to", shown(h.DestinationAccount, h.DestinationDomain), "from", shown(h.SourceAccount, h.SourceDomain))
	if digest != nil {
		args = append(args, "digest", core(*digest))
	}
	s.log().Log(context.Background(), level, "message "+string(o), args...)
}

// shown makes an address of names that nobody has checked, for a log.
func shown(account, domain string) string { return printable(account + "@" + domain) }

// printable makes of what nobody has checked what a log may hold: one in JSON passes on what a
// terminal takes for commands.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// rearm gives the client a command's time again after the time of a message.
func (s *session) rearm() {
	s.armed = time.Time{}
	s.arm()
}

// The side on which copying a message failed.
type side uint8

const (
	reading side = iota
	writing
)

// copyMessage copies m to w and says which of them failed: only one of the two
// is the client's doing.
func copyMessage(w io.Writer, m *cmtp.MessageReader) (side, error) {
	buf := netbuf.Borrow()
	defer netbuf.GiveBack(buf)
	for {
		n, err := m.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return writing, err
			}
		}
		switch {
		case err == io.EOF:
			return reading, nil
		case err != nil:
			return reading, err
		}
	}
}

// A pacedReader reads a message from the client and holds it to the least rate:
// the time that it has been waited for may not exceed a grace and what its bytes
// so far are allowed. Time that the server spends on the message does not count.
type pacedReader struct {
	*session
	total  int64 // bytes read
	waited time.Duration
}

func (r *pacedReader) Read(p []byte) (int, error) {
	if len(r.in.Buffered()) > 0 {
		n, err := r.in.Read(p)
		r.total += int64(n)
		return n, err
	}
	start := time.Now()
	r.allow(start)
	n, err := r.in.Read(p)
	r.waited += time.Since(start)
	r.total += int64(n)
	return n, err
}

// ReadByte reads one byte, as cmtp.Source needs it.
func (r *pacedReader) ReadByte() (byte, error) {
	if len(r.in.Buffered()) == 0 {
		start := time.Now()
		r.allow(start)
		if err := r.in.Fill(); err != nil {
			return 0, err
		}
		r.waited += time.Since(start)
	}
	r.total++
	return r.in.ReadByte()
}

// allow sets the deadline of the next read.
func (r *pacedReader) allow(now time.Time) {
	deadline := now.Add(r.cfg.MessageGrace + earned(r.total, r.cfg.MinRate, r.cfg.SessionTimeout) - r.waited)
	if deadline.After(r.ends) {
		deadline = r.ends
	}
	r.conn.SetReadDeadline(deadline)
}

// earned returns the time that n bytes may take at a rate a second. It is most at
// most, for terabytes may take longer than a Duration holds.
func earned(n, rate int64, most time.Duration) time.Duration {
	return time.Duration(min(float64(n)/float64(rate), most.Seconds()) * float64(time.Second))
}
