package shorebird

import (
	"context"
	"fmt"
	"io"
	"iter"

	"golang.org/x/sync/errgroup"

	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// Bounds of what is done at once for the copies of one letter.
const (
	maxSealing = 4 // copies that are sealed
	maxCalls   = 4 // servers that are sent to
)

// A parcel is one recipient's copy of a letter on its way, or the sender's own.
type parcel struct {
	answer  *answer
	message *client.Outgoing // once it is sealed
	size    int64            // on the wire
	sent    *client.Sent     // nil from CMTP 0.01
	err     error            // why it was not sent; nil for one that was
	kept    bool             // the outbox has it still, to be sent later
	copy    *cache.Copy      // in the outbox; nil where nothing is kept
	to      []string         // of the sender's own copy, whom the letter is to; nil for all others
}

func outgoing(m *letter.Message) *client.Outgoing {
	return &client.Outgoing{Header: m.Header, Log: m.Log, Body: m.Body, Attachments: m.Attachments}
}

// atOnce calls do for each parcel that nothing is wrong with, for some of them at a time, and keeps what
// went wrong.
func atOnce(ctx context.Context, parcels []*parcel, do func(*parcel) error) {
	var g errgroup.Group
	g.SetLimit(maxSealing)
	for _, p := range parcels {
		if p.err != nil {
			continue
		}
		g.Go(func() error {
			if p.err = ctx.Err(); p.err == nil {
				p.err = do(p)
			}
			return nil
		})
	}
	_ = g.Wait() // what is wrong stands in the parcels
}

// sendParcels sends what is sealed, to some servers at a time, and goes on where one was not
// taken. What became of each stands in it.
func (s *sender) sendParcels(ctx context.Context, parcels []*parcel) {
	groups := map[string][]*parcel{}
	var order []string
	for _, p := range parcels {
		if p.err != nil {
			continue
		}
		where := p.answer.where
		if groups[where] == nil {
			order = append(order, where)
		}
		groups[where] = append(groups[where], p)
	}
	var g errgroup.Group
	g.SetLimit(maxCalls)
	for _, where := range order {
		g.Go(func() error {
			s.sendGroup(ctx, groups[where])
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() == nil {
		return
	}
	for _, p := range parcels {
		if p.err != nil {
			p.err = context.Cause(ctx) // what it broke on its way says less
		}
	}
}

// sendGroup sends parcels to the one server that gave their answers. What the breaking of a
// channel has left open is sent again, in the same bytes.
func (s *sender) sendGroup(ctx context.Context, group []*parcel) {
	for len(group) > 0 {
		first := group[0]
		s.mu.Lock()
		p, err := s.submitTo(ctx, first.answer)
		s.mu.Unlock()
		if err != nil {
			first.err, group = err, group[1:]
			continue
		}
		n := small(group)
		if p.channel == nil || n < 2 {
			n = 1
			first.sent, first.err = p.send(first.message)
			err = first.err
		} else {
			n, err = p.sendAll(group[:n])
		}
		s.mu.Lock()
		if err != nil {
			s.drop(p.where)
		}
		p.used = s.now()
		s.mu.Unlock()
		for _, one := range group[:n] {
			if one.err != nil {
				one.err = fmt.Errorf("%s: %w", one.answer.address, one.err)
			}
		}
		group = group[n:]
	}
}

// smallParcel is up to how many bytes a round trip counts for more than hearing of a refusal
// while the rest is still being sent.
const smallParcel = 1 << 20

// small returns how many parcels in front are small.
func small(group []*parcel) int {
	for i, p := range group {
		if p.size > smallParcel {
			return i
		}
	}
	return len(group)
}

// sendAll sends parcels without waiting for each answer, and returns what became of how many. The
// error is one that has ended the channel, and stands in the last of them.
func (p *peer) sendAll(group []*parcel) (int, error) {
	var messages iter.Seq[client.Outgoing] = func(yield func(client.Outgoing) bool) {
		for _, one := range group {
			if !yield(*one.message) {
				return
			}
		}
	}
	fates, err := p.channel.SendAll(messages)
	for i := range fates {
		group[i].sent, group[i].err = &fates[i].Sent, fates[i].Err
	}
	if err == nil {
		return len(fates), nil
	}
	if len(fates) == len(group) {
		return len(fates), err
	}
	group[len(fates)].err = err
	return len(fates) + 1, err
}

// watchParts counts what is written of a message.
func watchParts(p *terminal.Progress, m *client.Outgoing) *client.Outgoing {
	w := &client.Outgoing{Header: m.Header, Log: m.Log, Body: watchedPart{m.Body, p}}
	for _, a := range m.Attachments {
		w.Attachments = append(w.Attachments, watchedPart{a, p})
	}
	return w
}

type watchedPart struct {
	cmtp.Part
	p *terminal.Progress
}

func (w watchedPart) WriteTo(to io.Writer) (int64, error) {
	return w.Part.WriteTo(writeFunc(func(b []byte) (int, error) {
		if err := w.p.Err(); err != nil {
			return 0, err
		}
		n, err := to.Write(b)
		w.p.Add(n)
		return n, err
	}))
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }
