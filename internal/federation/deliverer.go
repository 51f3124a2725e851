package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// RefusedFor is how long the FAILURE of a server that speaks only CMTP 0.01, which gives no
// reason, is taken for one that may pass.
const RefusedFor = 24 * time.Hour

// Messages is where the messages are. spool.Spool is one.
type Messages interface {
	Open(id spool.ID) (*spool.Reader, error)
}

// A Deliverer delivers what the queue has. It is a queue.Deliverer.
type Deliverer struct {
	messages Messages
	trace    tracer
}

var _ queue.Deliverer = (*Deliverer)(nil)

// NewDeliverer returns a Deliverer of a host of this name, which logs show.
func NewDeliverer(p *Peers, messages Messages, host string) *Deliverer {
	return &Deliverer{messages, tracer{p, host}}
}

// Open implements queue.Deliverer. What is no domain is refused for ever.
func (d *Deliverer) Open(ctx context.Context, domain string) (queue.Session, error) {
	name, err := address.ParseDomain(domain)
	if err != nil {
		return nil, &queue.Failure{Result: queue.Result{Outcome: queue.Permanent, Text: err.Error()}}
	}
	p, err := d.trace.Open(ctx, name)
	if err != nil {
		return nil, failure(err)
	}
	return &outbound{d, p}, nil
}

// failure says to the queue why a domain cannot be met.
func failure(err error) error {
	r := queue.Result{Outcome: queue.Temporary, Text: plainly(err)}
	if e, ok := errors.AsType[*MeetError](err); ok {
		r.Outcome = e.Outcome
	}
	if status, ok := errors.AsType[*cmtp.StatusError](err); ok {
		r.Status = uint16(status.Status)
	}
	return &queue.Failure{Result: r}
}

// An outbound is a queue.Session.
type outbound struct {
	*Deliverer
	peer *Peer
}

// Close implements queue.Session.
func (o *outbound) Close() error { return o.peer.Close() }

// minRate is how many bytes a second the other side has to take, after Config.SendGrace.
const minRate = 16 << 10

var errTooSlow = errors.New("the server takes messages too slowly")

// Send implements queue.Session. Each single step has its own time; all of them together
// have one too, so that nobody keeps us by taking a byte now and then.
func (o *outbound) Send(ctx context.Context, items []queue.Item) ([]queue.Result, error) {
	limit := o.trace.cfg.SendGrace
	for i := range items {
		limit += time.Duration(items[i].Size/minRate) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooSlow)
	defer cancel()
	results, err := o.send(ctx, items)
	if err != nil && errors.Is(context.Cause(ctx), errTooSlow) {
		err = errTooSlow
	}
	return results, err
}

func (o *outbound) send(ctx context.Context, items []queue.Item) ([]queue.Result, error) {
	defer o.peer.during(ctx)()
	if o.peer.channel == nil {
		return o.sendPlain(ctx, items)
	}
	return o.sendPrivate(items)
}

// sendPrivate sends by CMTP 1, all messages in one go.
func (o *outbound) sendPrivate(items []queue.Item) ([]queue.Result, error) {
	own := make([]queue.Result, len(items)) // of those that are not sent
	begun := 0
	fates, err := o.peer.channel.SendAll(func(yield func(client.Outgoing) bool) {
		for i := range items {
			begun = i + 1
			m, failed := o.load(&items[i])
			if failed != nil {
				own[i] = *failed
				continue
			}
			more := yield(m.Outgoing)
			m.reader.Close()
			if !more {
				return
			}
		}
	})
	results := make([]queue.Result, 0, len(items))
	for i := range items[:begun] {
		switch {
		case own[i].Outcome != 0:
			results = append(results, own[i])
		case len(fates) > 0:
			results, fates = append(results, o.result(fates[0])), fates[1:]
		default:
			return results, plainError(err)
		}
	}
	return results, plainError(err)
}

// result is what a server's answer means for a message.
func (o *outbound) result(f client.Fate) queue.Result {
	if f.Err != nil {
		return answered(f.Err)
	}
	r := f.Receipt
	head := spool.Head{Number: r.Commit, Hash: r.Hash}
	return queue.Result{Outcome: queue.Delivered, Receipt: queue.Receipt{Host: o.peer.Host, Head: head, At: r.When.Time()}}
}

// answered is what a refusal means.
func answered(err error) queue.Result {
	r := queue.Result{Outcome: queue.Permanent, Text: plainly(err)}
	if client.Temporary(err) {
		r.Outcome = queue.Temporary
	}
	if status, ok := errors.AsType[*cmtp.StatusError](err); ok {
		r.Status = uint16(status.Status)
	}
	return r
}

// sendPlain sends by CMTP 0.01, one message after the other.
func (o *outbound) sendPlain(ctx context.Context, items []queue.Item) (results []queue.Result, err error) {
	for i := range items {
		if err := ctx.Err(); err != nil {
			return results, err
		}
		m, failed := o.load(&items[i])
		if failed != nil {
			results = append(results, *failed)
			continue
		}
		err := o.peer.conn.Send(m.Header, m.Log, m.Body, m.Attachments, o.peer.Key)
		m.reader.Close()
		switch {
		case err == nil:
			results = append(results, queue.Result{Outcome: queue.Delivered, Receipt: queue.Receipt{Host: o.peer.Host}})
		case errors.Is(err, client.ErrRefused):
			results = append(results, o.refused(&items[i]))
		default:
			return results, plainError(err)
		}
	}
	return results, nil
}

// refused is what FAILURE means. It has no reason, and so is final only after a while.
func (o *outbound) refused(item *queue.Item) queue.Result {
	r := queue.Result{Outcome: queue.Temporary, Text: "the server speaks only CMTP 0.01, and refused without giving a reason"}
	if first := item.State.First; !first.IsZero() && o.trace.cfg.Now().Sub(first) >= RefusedFor {
		r.Outcome = queue.Permanent
	}
	return r
}

// A loaded message is ready to be sent, from the spool's file.
type loaded struct {
	client.Outgoing
	reader *spool.Reader
}

// load opens a message, or says why it cannot be sent.
func (o *outbound) load(item *queue.Item) (m loaded, failed *queue.Result) {
	r, err := o.messages.Open(item.ID)
	if err != nil {
		return m, &queue.Result{Outcome: queue.Temporary, Text: fmt.Sprintf("it cannot be read from the spool: %v", err)}
	}
	m, err = o.prepare(r)
	if err == nil {
		return m, nil
	}
	r.Close()
	outcome := queue.Temporary
	for _, final := range []error{errTooFar, errLogFull, errVouched, errSource, address.ErrInvalid, cmtp.ErrMessage} {
		if errors.Is(err, final) {
			outcome = queue.Permanent
		}
	}
	return m, &queue.Result{Outcome: outcome, Text: err.Error()}
}

// prepare finds the parts of a message once it was read to its end and so is known to be as
// it was stored.
func (o *outbound) prepare(r *spool.Reader) (loaded, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return loaded{}, fmt.Errorf("reading it from the spool: %w", err)
	}
	l, err := cmtp.ParseLayout(r, r.Size())
	if err != nil {
		return loaded{}, err
	}
	log, err := o.trace.log(l, r.Info())
	if err != nil {
		return loaded{}, err
	}
	m := loaded{client.Outgoing{Header: l.Header, Log: log, Body: part{l.Body, r}}, r}
	for _, a := range l.Attachments {
		m.Attachments = append(m.Attachments, part{a, r})
	}
	return m, nil
}

// A part is one of a stored message.
type part struct {
	cmtp.Extent
	in io.ReaderAt
}

func (p part) Size() int64 { return p.Length }

func (p part) WriteTo(w io.Writer) (int64, error) {
	buf := netbuf.Borrow()
	defer netbuf.GiveBack(buf)
	return io.CopyBuffer(w, p.Section(p.in), buf[:])
}
