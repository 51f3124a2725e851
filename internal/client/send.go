package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Send sends one message and returns when the server has it for good, or
// ErrRefused. server is the key that must have signed the answer. A server that
// refuses a message while it is still being sent is heard at once. Unless the
// whole message was written the connection is closed: whatever followed would be
// read as the message's rest.
func (c *Conn) Send(h cmtp.Header, log []byte, body cmtp.Part, attachments []cmtp.Part, server crypt.PublicKey) error {
	write := func(w io.Writer) error { return cmtp.WriteMessage(w, h, log, body, attachments) }
	return c.mail(write, func() error {
		sig, err := cmtp.ReadWord(c.in)
		if err != nil {
			return c.refusal(err, sig, &server)
		}
		if !crypt.Verify(server, []byte(cmtp.Success), sig) {
			return fmt.Errorf("it answered SUCCESS, but %w", ErrSignature)
		}
		return nil
	})
}

// mail sends MAIL and the message that write writes, and lets reply read the
// answer, which may come before the message's end.
func (l *link) mail(write func(io.Writer) error, reply func() error) error {
	if err := l.transmit(write, reply); err != nil {
		return fmt.Errorf("sending the message: %w", err)
	}
	return nil
}

func (l *link) transmit(write func(io.Writer) error, reply func() error) error {
	if err := l.send(&cmtp.Command{Verb: cmtp.Mail}); err != nil {
		return err
	}
	out := &interruptible{link: l}
	l.conn.SetReadDeadline(time.Time{})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		l.in.Peek(1)
		out.interrupt()
	}()
	buffered := bufio.NewWriterSize(out, 64<<10)
	err := write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		l.conn.SetReadDeadline(time.Now().Add(l.timeout))
		<-answered
		return reply()
	}
	if !out.failed {
		l.drop() // a part could not be read: the server must not wait for its rest
	}
	err = l.cutShort(err, answered, reply)
	l.drop()
	return err
}

// lastWord is how long the reply of a server that stopped reading is waited for.
const lastWord = time.Second

// cutShort returns what to say of a message that err kept from being written to
// its end. A server that refused it may have closed the connection before its
// reply was read.
func (l *link) cutShort(err error, answered <-chan struct{}, reply func() error) error {
	early := errors.Is(err, errAnswered)
	wait := lastWord
	if early {
		wait = l.timeout
	}
	l.conn.SetReadDeadline(time.Now().Add(wait))
	<-answered
	answer := reply()
	switch {
	case answer == nil:
		return fmt.Errorf("%w: SUCCESS before the message's end", cmtp.ErrReply)
	case early, !lost(answer):
		return answer
	}
	return err
}

// errAnswered ends the sending of a message that was answered before its end.
var errAnswered = errors.New("the server answered before the message's end")

// interruptible writes with a deadline that moves as bytes do, until it is
// interrupted.
type interruptible struct {
	*link
	failed bool // the writer's: a write failed, so nothing more can be sent

	mu   sync.Mutex
	done bool // under mu: interrupted
}

func (w *interruptible) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	w.conn.SetWriteDeadline(time.Unix(1, 0))
}

func (w *interruptible) Write(b []byte) (int, error) {
	if !w.extend() {
		w.failed = true
		return 0, errAnswered
	}
	n, err := w.conn.Write(b)
	if err != nil {
		w.failed = true
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.done {
			err = errAnswered
		}
	}
	return n, err
}

// extend moves the deadline, and reports false once interrupted.
func (w *interruptible) extend() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	}
	return !w.done
}
