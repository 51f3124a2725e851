package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/netbuf"
)

// protocol names the dialect for the log.
func (s *session) protocol() string {
	if s.isPrivate() {
		return "cmtp/1"
	}
	return "cmtp"
}

// isPrivate reports whether the session is inside the channel.
func (s *session) isPrivate() bool { return s.pipe != s.conn }

// secure answers STARTTLS, unless it is refused already, and goes on inside the channel.
// What came behind the command was put there before anybody could agree to it, so the
// session ends without an answer (docs/protocol.md section 15.2).
func (s *session) secure(ctx context.Context, refused error) error {
	if n := len(s.in.Buffered()); n > 0 {
		s.out = nil
		s.log().Warn("bytes were injected behind STARTTLS", "bytes", n)
		return channel.ErrInjected
	}
	if refused != nil {
		return nil
	}
	s.reply(s.words.success)
	if err := s.flush(); err != nil {
		return err
	}
	c, err := s.cfg.Channel.Handshake(ctx, netbuf.Parking(s.conn.Conn, s.close), 0)
	if err != nil {
		s.conn.Farewell(nil)
		return err
	}
	s.pipe = &netbuf.Conn{Conn: c, In: netbuf.NewReader(c), Client: s.conn.Client, Local: s.conn.Local, ID: s.conn.ID}
	s.in = s.pipe.In
	s.dialect = &part2{Server: s.Server, client: client{s.conn.Client.Addr(), s.conn.ID}, binding: c.Binding()}
	s.rearm() // the handshake has taken the deadline away
	return nil
}

// takeForm reads the form behind a command and answers it; one of a command that was
// refused is read past. An error ends the session.
func (s *session) takeForm(v cmtp.Verb, wanted bool) error {
	if err := s.flush(); err != nil {
		return err
	}
	src := &pacedReader{session: s}
	if !wanted {
		err := discardForm(src)
		s.rearm()
		if errors.Is(err, cmtp.ErrTooLarge) { // its command has had its reply
			return fmt.Errorf("%w: %w", errOutOfStep, err)
		}
		return err
	}
	form, err := cmtp.ReadForm(src)
	if err != nil {
		s.cfg.Observer.Command(v, false)
		return s.badForm(err)
	}
	out := s.buffer()
	reply, err := s.form(form, *out)
	*out = reply
	s.outcome(v, err, "")
	if err != nil {
		s.refuseWith(err)
	}
	s.rearm()
	return nil
}

// badForm answers a form that is too long, behind which the stream cannot be read on.
func (s *session) badForm(err error) error {
	if !errors.Is(err, cmtp.ErrTooLarge) {
		return err
	}
	s.refuseWith(errLongForm)
	s.rearm()
	return fmt.Errorf("%w: %w", errOutOfStep, err)
}

// discardForm reads a form and keeps nothing of it.
func discardForm(r io.Reader) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return fmt.Errorf("reading a form: %w", err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > cmtp.MaxForm {
		return fmt.Errorf("%w: a form of %d bytes", cmtp.ErrTooLarge, n)
	}
	if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
		return fmt.Errorf("reading a form: %w", err)
	}
	return nil
}

// leaveTime bounds the last word to a client that may not be reading.
const leaveTime = time.Second

// leaveChannel announces the end of the channel, so that the client can tell it from one
// that somebody made. Where it is the server that wants to end the session, it says so
// before (docs/protocol.md section 16.4). A client whose bytes were altered on the way has
// been told so by an alert, which no reset may overtake.
func (s *session) leaveChannel(err error) {
	if errors.Is(err, channel.ErrAltered) {
		s.conn.Farewell(nil)
		return
	}
	s.conn.SetDeadline(time.Now().Add(leaveTime))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.refuseWith(errEnding)
		if s.flush() != nil {
			return
		}
	}
	if c, ok := s.pipe.Conn.(*channel.Conn); ok {
		c.CloseWrite()
	}
}
