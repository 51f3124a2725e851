package queue

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// MaxEntries is how many entries one List returns at most.
const MaxEntries = 1000

// The conditions of an Entry.
const (
	Waiting  = "waiting"
	Sending  = "sending"  // it is being sent, or told of, at this moment
	Held     = "held"     // by the operator
	GivenUp  = "given-up" // its report is still to be written
	Distrust = "distrust" // waits, since the destination's key cannot be trusted
	Damaged  = "damaged"  // see cmtpd spool repair
)

// An Entry is a queued message as it is shown, and the form of --json. The source is a claim.
type Entry struct {
	ID          string     `json:"id"`
	Domain      string     `json:"domain"`
	Destination string     `json:"destination"`
	Source      string     `json:"source"`
	Size        int64      `json:"size"`
	Arrived     time.Time  `json:"arrived"`
	Condition   string     `json:"condition"`
	Text        string     `json:"text"` // what it waits for, in words
	Attempts    uint16     `json:"attempts"`
	First       *time.Time `json:"first_attempt"`
	Last        *time.Time `json:"last_attempt"`
	Next        *time.Time `json:"next_attempt"` // not before; null for at once, or for never
	Status      uint16     `json:"status"`       // of the last answer, 0 for none
	Reason      string     `json:"reason"`       // of the last failure
	Noticed     bool       `json:"notice_sent"`
}

// Lister is where queued messages are listed from: a Store, or a spool that is only read.
type Lister interface {
	List(mailbox spool.MailboxID, after spool.ID) iter.Seq2[spool.Info, error]
	Get(id spool.ID) (spool.Info, error)
	Header(id spool.ID) (cmtp.Header, error)
}

// List returns up to n entries of a mailbox with numbers above after, of one domain unless it is empty.
// It shows what is on disk; Queue.List knows more.
func List(from Lister, mailbox spool.MailboxID, domain string, after spool.ID, n int) (list []Entry, err error) {
	for info, err := range from.List(mailbox, after) {
		if err != nil && !errors.Is(err, spool.ErrDamaged) {
			return list, err
		}
		e, err := show(from, &info)
		if errors.Is(err, spool.ErrNotFound) || domain != "" && e.Domain != Domain(domain) {
			continue
		}
		if list = append(list, e); len(list) == n {
			break
		}
	}
	return list, nil
}

// Show is List for one message. spool.ErrNotFound also where it is in another mailbox.
func Show(from Lister, mailbox spool.MailboxID, id spool.ID) (Entry, error) {
	info, err := from.Get(id)
	if errors.Is(err, spool.ErrNotFound) || err == nil && info.Mailbox != mailbox {
		err = missing(id)
	}
	if err != nil && (info.ID == 0 || !errors.Is(err, spool.ErrDamaged)) {
		return Entry{}, err
	}
	return show(from, &info)
}

func missing(id spool.ID) error {
	return fmt.Errorf("%w in the queue: %s", spool.ErrNotFound, id)
}

// show makes an entry. The error is spool.ErrNotFound.
func show(from Lister, info *spool.Info) (Entry, error) {
	s, stateErr := parseState(info.Mark)
	e := Entry{ID: info.ID.String(), Size: info.Size, Arrived: info.Received.UTC(), Attempts: s.Attempts, Status: s.Status, Reason: s.Reason,
		First: shown(s.First), Last: shown(s.Last), Next: shown(s.Next), Noticed: s.Flags&flagNoticed != 0}
	h, err := from.Header(info.ID)
	if errors.Is(err, spool.ErrNotFound) {
		return e, err
	}
	e.Domain = Domain(h.DestinationDomain)
	e.Destination, e.Source = h.DestinationAccount+"@"+h.DestinationDomain, h.SourceAccount+"@"+h.SourceDomain
	switch {
	case err != nil:
		e.Condition, e.Text, e.Next = Damaged, "it is damaged on disk: see cmtpd spool repair", nil
	case s.Flags&flagGivenUp != 0:
		e.Condition, e.Text, e.Next = GivenUp, "given up; its sender is being told", nil
	case s.Flags&flagHeld != 0:
		e.Condition, e.Text, e.Next = Held, "held by the operator", nil
	case s.Flags&flagTrust != 0:
		e.Condition = Distrust
	default:
		e.Condition = Waiting
	}
	if stateErr != nil {
		e.Text = stateErr.Error()
	}
	if e.Text == "" {
		e.Text = e.waits()
	}
	return e, nil
}

func shown(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// waits says in words what a message waits for.
func (e *Entry) waits() string {
	text := "waits for its first attempt"
	if e.Next != nil {
		text = fmt.Sprintf("waits until %s", e.Next.Format(time.RFC3339))
	}
	if e.Attempts > 0 {
		text += fmt.Sprintf(" after attempt %d", e.Attempts)
	}
	switch {
	case e.Condition == Distrust:
		text += "; the destination is not trusted"
	case e.Status != 0:
		text += fmt.Sprintf("; status %d", e.Status)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// List is the function List, with what the queue knows beside what is on disk.
func (q *Queue) List(domain string, after spool.ID, n int) ([]Entry, error) {
	n = min(max(n, 1), MaxEntries)
	if domain == "" {
		list, err := List(q.cfg.Store, q.cfg.Mailbox, "", after, n)
		for i := range list {
			q.complete(&list[i])
		}
		return list, err
	}
	var list []Entry
	for _, id := range q.members(Domain(domain), after, n) {
		e, err := q.Show(id)
		if errors.Is(err, spool.ErrNotFound) {
			continue
		}
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

// members returns the numbers of a destination's messages.
func (q *Queue) members(domain string, after spool.ID, n int) (ids []spool.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.all[domain]
	if d == nil {
		return nil
	}
	for id, at := range q.out {
		if at.destination == d && id > after {
			ids = append(ids, id)
		}
	}
	for _, list := range [][]item{d.ready, d.later} {
		for i := range list {
			if list[i].id > after {
				ids = append(ids, list[i].id)
			}
		}
	}
	slices.Sort(ids)
	return ids[:min(len(ids), n)]
}

// Show is the function Show, with what the queue knows beside what is on disk.
func (q *Queue) Show(id spool.ID) (Entry, error) {
	e, err := Show(q.cfg.Store, q.cfg.Mailbox, id)
	if err == nil {
		q.complete(&e)
	}
	return e, err
}

// complete adds what is known only in memory.
func (q *Queue) complete(e *Entry) {
	if e.Condition != Waiting && e.Condition != Distrust {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	id, _ := spool.ParseID(e.ID)
	d := q.all[e.Domain]
	switch _, out := q.out[id]; {
	case q.cfg.Deliverer == nil:
		e.Text = "waits: " + q.cfg.Closed
	case out:
		e.Condition, e.Text = Sending, "is being sent at this moment"
	case d != nil && d.next > stamp(q.cfg.Now()) && (e.Next == nil || until(*e.Next) < d.next):
		next := time.Unix(int64(d.next), 0).UTC()
		e.Next = &next
		e.Text = e.waits()
		if e.Attempts == 0 {
			e.Text = fmt.Sprintf("waits until %s: %s cannot be reached", next.Format(time.RFC3339), e.Domain)
		}
	}
}
