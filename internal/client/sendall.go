package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// An Outgoing is one of the messages of SendAll.
type Outgoing struct {
	Header      cmtp.Header
	Log         []byte
	Body        cmtp.Part
	Attachments []cmtp.Part
}

// A Fate is what the server has said of one message: that it is Sent or, in Err, a
// cmtp.StatusError. An ErrParameter there kept the message from being sent at all.
type Fate struct {
	Sent
	Err error
}

// underway is how many messages may wait for their answers. Answers are read while messages
// are written, so that no buffer bounds it.
const underway = 32

// SendAll sends messages one behind the other without waiting for answers in between, and
// returns the fates of the first of them, in their order. With an error the channel is
// closed, and what became of the rest is not known. A message is used until the next one is
// asked for.
func (c *Channel) SendAll(messages iter.Seq[Outgoing]) ([]Fate, error) {
	if err := c.ready(cmtp.Mail); err != nil {
		return nil, fmt.Errorf("sending messages: %w", err)
	}
	p := &pipeline{Channel: c, flights: make(chan *flight, underway), over: make(chan struct{}), sent: make(chan struct{})}
	p.extend()
	var fates []Fate
	var heard error
	go func() {
		defer close(p.over)
		if fates, heard = p.listen(); heard != nil {
			p.below.Close() // so that nobody goes on writing
		}
	}()
	err := p.send(messages)
	close(p.sent)
	close(p.flights)
	<-p.over
	if err != nil && (heard == nil || lost(heard) && !errors.Is(err, errOver)) {
		heard = err
	}
	if heard != nil {
		c.drop()
		return fates, fmt.Errorf("sending messages: %w", heard)
	}
	return fates, nil
}

// A pipeline is one SendAll: the caller's goroutine writes, another one listens.
type pipeline struct {
	*Channel
	flights chan *flight  // what was begun, in order
	over    chan struct{} // closed when nobody listens any more
	sent    chan struct{} // closed when nothing more is written
}

// A flight is a message on its way.
type flight struct {
	to      address.Address
	err     error // it cannot be sent
	digest  [32]byte
	written chan struct{} // closed when digest is there
}

var errOver = errors.New("nobody listens any more")

// extend gives the exchange its time again.
func (p *pipeline) extend() { p.conn.SetDeadline(time.Now().Add(p.timeout)) }

// Write moves the deadline of both directions as bytes do.
func (p *pipeline) Write(b []byte) (int, error) {
	p.extend()
	return p.conn.Write(b)
}

// send writes the messages. What it wrote is flushed before it waits for anything.
func (p *pipeline) send(messages iter.Seq[Outgoing]) (err error) {
	w := &noting{w: p}
	out := bufio.NewWriterSize(w, 64<<10)
	for m := range messages {
		if err = p.begin(out, m); err != nil {
			break
		}
	}
	if err == nil {
		err = out.Flush()
	}
	switch {
	case err == nil, errors.Is(err, errOver):
	case w.failed: // the server may have said why it does not read on
		p.conn.SetReadDeadline(time.Now().Add(lastWord))
	default: // a part could not be read: the server must not wait for its rest
		p.below.Close()
	}
	return err
}

func (p *pipeline) begin(out *bufio.Writer, m Outgoing) error {
	f := &flight{written: make(chan struct{})}
	if f.to, f.err = destination(&m.Header); f.err != nil {
		f.err = fmt.Errorf("%w: %w", ErrParameter, f.err)
	}
	select {
	case p.flights <- f:
	default:
		if err := out.Flush(); err != nil {
			return err
		}
		select {
		case p.flights <- f:
		case <-p.over:
			return errOver
		}
	}
	if f.err != nil {
		return nil
	}
	_, err := out.Write((&cmtp.Command{Verb: cmtp.Mail}).Append(nil))
	if err == nil {
		f.digest, err = cmtp.WriteDigested(out, m.Header, m.Log, m.Body, m.Attachments)
	}
	if err == nil {
		close(f.written)
	}
	return err
}

// noting remembers whether it was the writing that failed.
type noting struct {
	w      io.Writer
	failed bool
}

func (n *noting) Write(b []byte) (int, error) {
	k, err := n.w.Write(b)
	n.failed = n.failed || err != nil
	return k, err
}

// listen reads an answer to each message.
func (p *pipeline) listen() (fates []Fate, err error) {
	for f := range p.flights {
		if f.err != nil {
			fates = append(fates, Fate{Err: f.err})
			continue
		}
		fate, err := p.fate(f)
		if err != nil {
			return fates, err
		}
		fates = append(fates, fate)
		p.conn.SetReadDeadline(time.Now().Add(p.timeout))
	}
	return fates, nil
}

// fate reads one answer. A refusal may come before the message's end; a receipt cannot.
func (p *pipeline) fate(f *flight) (Fate, error) {
	status, payload, err := p.reply(uint64(crypt.MaxReceipt))
	var refused *cmtp.StatusError
	if errors.As(err, &refused) && refused.Status != cmtp.StatusClosing {
		return Fate{Err: fmt.Errorf("sending the message: %w", err)}, nil
	}
	if err != nil {
		return Fate{}, err
	}
	select {
	case <-f.written:
	case <-p.sent:
		select {
		case <-f.written:
		default:
			return Fate{}, fmt.Errorf("%w: a receipt before the message's end", cmtp.ErrReply)
		}
	}
	r, err := p.receipt(payload, f.digest, f.to)
	if err != nil {
		return Fate{}, err
	}
	return Fate{Sent: Sent{r, status == cmtp.StatusQueued}}, nil
}
