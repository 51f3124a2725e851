package client

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"cmtpd/internal/cmtp"
)

// A Fetched is the answer to one FETCH.
type Fetched struct {
	cmtp.FetchQuery        // what was asked for
	Size            uint64 // how many bytes there are, at most as many as were asked for
	// Body is to be read before the callback returns; what is left of it is passed over. It
	// ends in io.EOF behind Size bytes, or in an error after which there is no more.
	Body io.Reader
	Err  error // a cmtp.StatusError: there is no Body
}

// FETCHes wait for their answers so that a message does not take a round trip: fetchAhead of them, however long their
// answers are, and more, up to maxFetchAhead, while those have fetchBytes together. On a line of a gigabit a second
// whose round trip is a tenth of one, 12 MiB are under way.
const (
	fetchAhead    = 64
	maxFetchAhead = 8192
	fetchBytes    = 16 << 20
)

// slowest is how many bytes a second have to come of what a server has announced, after the
// time of one exchange. A server that gives a byte now and then holds nobody for long.
const slowest = 1 << 10

// Fetch writes bytes of a message to w, at most q.Length, and returns how many there were. Whether
// they are the message that was meant is for the caller to check (docs/protocol.md section 27.3). An error of
// w closes the Channel.
func (c *Channel) Fetch(q cmtp.FetchQuery, w io.Writer) (n int64, err error) {
	var refused error
	err = c.FetchAll(func(yield func(cmtp.FetchQuery) bool) { yield(q) }, func(f Fetched) (err error) {
		if refused = f.Err; refused == nil {
			n, err = io.Copy(w, f.Body)
		}
		return err
	})
	return n, errors.Join(err, refused)
}

// FetchAll fetches from many messages in few round trips, and calls each with the answers in the
// order of the queries, while others are on their way. An error that each returns, or one of the server's
// that is no refusal of a single message, ends it and closes the Channel.
func (c *Channel) FetchAll(queries iter.Seq[cmtp.FetchQuery], each func(Fetched) error) error {
	if err := c.fetchAll(queries, each); err != nil {
		return fmt.Errorf("fetching messages: %w", err)
	}
	return nil
}

func (c *Channel) fetchAll(queries iter.Seq[cmtp.FetchQuery], each func(Fetched) error) error {
	if err := c.mine(); err != nil {
		return err
	}
	if err := c.ready(cmtp.Fetch); err != nil {
		return err
	}
	next, stop := iter.Pull(queries)
	defer stop()
	a := asking{channel: c, next: next, more: true}
	for {
		if err := a.ask(); err != nil {
			return c.parting(err)
		}
		if len(a.asked) == 0 {
			return nil
		}
		if err := c.fetched(a.asked[0], each); err != nil {
			err = c.lied(err)
			a.landed() // at once, now that the connection is closed
			return err
		}
		a.bytes -= share(&a.asked[0])
		a.asked = a.asked[1:]
	}
}

// An asking is FETCHes that are under way. A goroutine writes them while answers are read: they may be more than the
// connection's buffers take, and the server reads none while it waits for us to read.
type asking struct {
	channel *Channel
	next    func() (cmtp.FetchQuery, bool)
	more    bool              // of next, as far as is known
	asked   []cmtp.FetchQuery // and not answered
	bytes   uint64            // the shares of asked
	writing chan error        // what became of the last ones' write; or nil
}

// share is how much of fetchBytes a query takes.
func share(q *cmtp.FetchQuery) uint64 { return min(q.Length, fetchBytes) }

// room reports whether less than a fraction of what may be under way is.
func (a *asking) room(fraction, of int) bool {
	n := len(a.asked) * of
	return n < fetchAhead*fraction || n < maxFetchAhead*fraction && a.bytes*uint64(of) < fetchBytes*uint64(fraction)
}

// ask sends FETCHes until enough are under way, or there are no more. Of one write the end is waited for only where
// there is no answer to read meanwhile.
func (a *asking) ask() error {
	busy := a.writing != nil && len(a.writing) == 0
	if len(a.asked) > 0 && (busy || !a.more || !a.room(3, 4)) {
		return nil
	}
	if err := a.landed(); err != nil {
		return err
	}
	var b []byte
	for a.more && a.room(1, 1) {
		var q cmtp.FetchQuery
		if q, a.more = a.next(); !a.more {
			break
		}
		a.asked = append(a.asked, q)
		a.bytes += share(&q)
		b = (&cmtp.Command{Verb: cmtp.Fetch, Fixed: q.Append(nil)}).Append(b)
	}
	if len(b) > 0 {
		a.write(b)
	}
	return nil
}

// write has b written beside. That takes as long as there are answers to read: on a slow line the last ones wait for
// those.
func (a *asking) write(b []byte) {
	conn, done := a.channel.conn, make(chan error, 1)
	conn.SetWriteDeadline(time.Time{})
	a.writing = done
	go func() {
		_, err := conn.Write(b)
		done <- err
	}()
}

// landed waits until what was asked for is written. A server that has answered that and does not read it is not
// waited for longer than for an answer.
func (a *asking) landed() error {
	if a.writing == nil {
		return nil
	}
	a.channel.conn.SetWriteDeadline(time.Now().Add(a.channel.timeout))
	err := <-a.writing
	a.writing = nil
	if err != nil {
		return fmt.Errorf("sending %v: %w", cmtp.Fetch, err)
	}
	return nil
}

// fetched reads one answer.
func (c *Channel) fetched(q cmtp.FetchQuery, each func(Fetched) error) error {
	c.conn.SetReadDeadline(time.Now().Add(c.timeout))
	_, n, err := cmtp.ReadReplyHead(c.in, q.Length)
	var status *cmtp.StatusError
	if errors.As(err, &status) && status.Status != cmtp.StatusClosing {
		return each(Fetched{FetchQuery: q, Err: err})
	}
	if err != nil {
		return err
	}
	body := &body{channel: c, left: n, patience: c.timeout}
	if err := each(Fetched{FetchQuery: q, Size: n, Body: body}); err != nil {
		return err
	}
	if body.err != nil {
		return body.err
	}
	_, err = io.Copy(io.Discard, body)
	return err
}

// A body is the payload of an answer that is being read.
type body struct {
	channel *Channel
	left    uint64 // bytes
	err     error
	// patience is how long the server may still be waited for. What it sends buys more.
	patience time.Duration
}

// Read implements io.Reader. The time that the caller takes in between does not count as the
// server's silence.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	began := time.Now()
	b.channel.conn.SetReadDeadline(began.Add(min(b.patience, b.channel.timeout)))
	n, err := b.channel.in.Read(p[:min(uint64(len(p)), b.left)])
	b.left -= uint64(n)
	b.patience += time.Duration(n)*time.Second/slowest - time.Since(began)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && b.left > 0 {
		b.err = fmt.Errorf("reading a message: %w", err)
		return n, b.err
	}
	return n, nil
}
