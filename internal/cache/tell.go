package cache

import (
	"context"
	"fmt"

	"cmtpd/internal/cmtp"
)

// tellCount is how many messages' intents go into one FLAG or DELETE: each may take two items.
const tellCount = 100

// tell sends what was changed here (section 29.1). Of a
// message that others change meanwhile the words stay intents: they are tried again once that is known.
func (r *run) tell(ctx context.Context) error {
	for after := int64(minID); ; {
		all, err := r.Cache.intents(ctx, after, tellCount)
		if err != nil || len(all) == 0 {
			return err
		}
		after = all[len(all)-1].content
		if err := r.tellFlags(ctx, all); err != nil {
			return err
		}
		if err := r.tellGone(ctx, all); err != nil {
			return err
		}
	}
}

// tellGone sends the deletions among the intents.
func (r *run) tellGone(ctx context.Context, all []intent) error {
	var numbers []uint64
	var done []outcome
	for _, i := range all {
		if i.gone {
			numbers = append(numbers, i.number)
			done = append(done, outcome{intent: i, over: true})
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	if _, err := r.srv.Delete(numbers); err != nil {
		return fmt.Errorf("deleting messages: %w", err)
	}
	r.report.Told += len(done)
	return r.Cache.settle(ctx, done)
}

// An asked item is part of one intent.
type asked struct {
	intent *intent
	words  bool // it is about the keywords
	labels []string
}

// tellFlags sends the flags and keywords among the intents. Keywords go first, since they name the
// change number that flags change.
func (r *run) tellFlags(ctx context.Context, all []intent) error {
	var items []cmtp.FlagItem
	var about []asked
	var done []outcome
	for k := range all {
		i := &all[k]
		if i.gone {
			continue
		}
		if len(i.plus)+len(i.minus) > 0 {
			item, labels, err := r.words(i)
			if err != nil {
				r.report.GivenUp = append(r.report.GivenUp, fmt.Errorf("changing the keywords of message %d: %w", i.number, err))
				done = append(done, outcome{intent: *i, wordsDone: true})
				i.plus, i.minus = nil, nil
			} else {
				items, about = append(items, item), append(about, asked{i, true, labels})
			}
		}
		if i.mask != 0 {
			items = append(items, cmtp.FlagItem{Number: i.number, Mask: i.mask, Flags: i.flags})
			about = append(about, asked{intent: i})
		}
	}
	if len(items) > 0 {
		results, err := r.srv.Flag(items)
		if err != nil {
			return fmt.Errorf("changing flags: %w", err)
		}
		if len(results) != len(items) {
			return fmt.Errorf("changing flags: %w: %d results for %d items", errAnswer, len(results), len(items))
		}
		if done, err = r.outcomes(done, items, about, results); err != nil {
			return err
		}
	}
	if len(done) == 0 {
		return nil
	}
	return r.Cache.settle(ctx, done)
}

// words returns the item that changes the keywords of a message as intended.
func (r *run) words(i *intent) (item cmtp.FlagItem, labels []string, err error) {
	if i.sealed && !i.force {
		return item, nil, fmt.Errorf("%w: another client has sealed them with a key that is not here", ErrWords)
	}
	labels = i.upon(i.words)
	sealed := []byte{}
	if len(labels) > 0 {
		if sealed, err = r.SealWords(i.sha, labels); err != nil {
			return item, nil, fmt.Errorf("%w: %w", ErrWords, err)
		}
	}
	return cmtp.FlagItem{Number: i.number, Expect: i.change, SetKeywords: true, Keywords: sealed}, labels, nil
}

// outcomes makes of the server's results what is done of the intents.
func (r *run) outcomes(done []outcome, items []cmtp.FlagItem, about []asked, results []cmtp.FlagResult) ([]outcome, error) {
	byIntent := make(map[*intent]*outcome)
	var order []*intent
	for k, res := range results {
		a := about[k]
		o := byIntent[a.intent]
		if o == nil {
			o = &outcome{intent: *a.intent}
			byIntent[a.intent], order = o, append(order, a.intent)
		}
		switch {
		case res.Status.Done() && a.words:
			o.wordsDone, o.keywords, o.labels, o.now = true, items[k].Keywords, a.labels, res.Change
		case res.Status.Done():
			o.flagsDone, o.now = true, res.Change
		case res.Status == cmtp.StatusNoMessage:
			o.over = true
		case res.Status == cmtp.StatusChanged, res.Status.Temporary(): // later
		default:
			return nil, fmt.Errorf("changing flags: %w: status %d", errAnswer, res.Status)
		}
	}
	for _, i := range order {
		o := byIntent[i]
		if o.over || o.flagsDone || o.wordsDone {
			r.report.Told++
			done = append(done, *o)
		}
	}
	return done, nil
}
