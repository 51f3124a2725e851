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

// Of FETCHes, fetchAhead wait for their answers, so that a message does not take a round trip.
// They are few enough for any connection's buffers, while the server is writing to us.
const fetchAhead = 64

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
	var asked []cmtp.FetchQuery // and not answered
	for more := true; more || len(asked) > 0; {
		if more && len(asked) <= fetchAhead/2 {
			var err error
			if asked, more, err = c.ask(asked, next); err != nil {
				return c.parting(err)
			}
			continue
		}
		if err := c.fetched(asked[0], each); err != nil {
			return c.lied(err)
		}
		asked = asked[1:]
	}
	return nil
}

// ask sends FETCHes until fetchAhead are under way, or there are no more.
func (c *Channel) ask(asked []cmtp.FetchQuery, next func() (cmtp.FetchQuery, bool)) (_ []cmtp.FetchQuery, more bool, err error) {
	var b []byte
	for more = true; len(asked) < fetchAhead; {
		var q cmtp.FetchQuery
		if q, more = next(); !more {
			break
		}
		asked = append(asked, q)
		b = (&cmtp.Command{Verb: cmtp.Fetch, Fixed: q.Append(nil)}).Append(b)
	}
	if len(b) > 0 {
		err = c.write(cmtp.Fetch, b)
	}
	return asked, more, err
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
