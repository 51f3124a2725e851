package session

import (
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/limit"
)

// SendingLimits bound what one account may send, be it to itself: limits.mail_rate and limits.mail_per_day. All must be positive.
type SendingLimits struct {
	Messages, Burst int   // messages: a minute, and at once
	Day             int64 // bytes in a day, and at once; a message that is larger uses it up
}

// DefaultSending are those of the configuration.
var DefaultSending = SendingLimits{Messages: 120, Burst: 100_000, Day: 64 << 30}

// A Sending counts for every account what SendingLimits bound. How much a mailbox holds does not bound what goes through it: whoever writes to
// themselves, deletes, and writes again, leaves in the spool's chain what proves that each message was there.
type Sending struct {
	messages *limit.Budget[account.ID]
	kib      *limit.Budget[account.ID]
}

// NewSending returns one that has counted nothing.
func NewSending(l SendingLimits, now func() time.Time) *Sending {
	return &Sending{
		messages: limit.NewBudget[account.ID](l.Messages, l.Burst, time.Minute, now),
		kib:      limit.NewBudget[account.ID](kib(l.Day), kib(l.Day), 24*time.Hour, now),
	}
}

// SetLimits has l count from now on.
func (s *Sending) SetLimits(l SendingLimits) {
	s.messages.Set(l.Messages, l.Burst)
	s.kib.Set(kib(l.Day), kib(l.Day))
}

// kib is in what bytes are counted, begun ones in full: a nanosecond has to be less than one of a day.
func kib(bytes int64) int { return int((bytes + 1023) / 1024) }

// take counts a message of so many bytes, or says that it is too much for now.
func (s *Sending) take(id account.ID, bytes int64) error {
	if wait := s.messages.TakeAll(id, 1); wait > 0 {
		return &overspent{MailRate, wait}
	}
	if wait := s.kib.TakeAll(id, kib(bytes)); wait > 0 {
		s.messages.GiveBack(id, 1)
		return &overspent{MailPerDay, wait}
	}
	return nil
}
