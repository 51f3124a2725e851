// Package queue decides when a message leaves for another server: what is tried, when, how
// often and until when. It knows neither DNS nor sockets; a Deliverer does.
//
// It guarantees that each message in its mailbox is delivered or reported to its sender, and
// leaves the spool only then, or when the operator drops it; that an attempt and the time of the
// next are on disk before anything is dialled, so that a restart at any moment neither forgets
// a message nor hurries an attempt; that a destination which is dead or slow holds up no other one;
// and that a message which waits takes few bytes of memory. An attempt that a crash cuts short
// may have delivered: the message is sent again, and its receiver knows it by its core digest.
package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// Store is what the queue needs of the spool. What MarkAll and RemoveAll did is durable when
// they return without an error; the queue calls them from several goroutines. Spool is one.
type Store interface {
	List(mailbox spool.MailboxID, after spool.ID) iter.Seq2[spool.Info, error]
	Get(id spool.ID) (spool.Info, error)
	MarkAll(ctx context.Context, all []spool.Marking) ([]spool.Marked, error)
	RemoveAll(ctx context.Context, ids []spool.ID, by string) (removed int, err error)
	// Header reads the envelope of a message.
	Header(id spool.ID) (cmtp.Header, error)
}

// An Item is a message that is to be sent, or told of.
type Item struct {
	ID      spool.ID
	Domain  string    // destination; as Added was told, or normalised from the message
	Digest  [32]byte  // core digest
	Size    int64     // bytes
	Arrived time.Time // in the spool
	State   State     // as it is durable
}

// Outcome says what became of a message, or of the connection to its destination.
type Outcome uint8

// What may become of a message. Distrusted counts as Temporary, and is shown as what it is.
const (
	Delivered Outcome = iota + 1
	Temporary
	Permanent
	Distrusted
)

// A Result is the fate of one attempt.
type Result struct {
	Outcome Outcome
	Status  uint16  // of the answer, 0 where there was none
	Text    string  // why it was not delivered, in words for the sender
	Receipt Receipt // of Delivered
}

// A Receipt is what the log keeps of how a message was taken.
type Receipt struct {
	Host string     // of who took it
	Head spool.Head // of that server's spool; zero where it gives no receipt
	At   time.Time  // by that server's clock
}

// shown is what of it stands in a line of the log.
func (r *Receipt) shown() []any {
	if r.Head == (spool.Head{}) {
		return []any{"host", r.Host, "receipt", false}
	}
	return []any{"host", r.Host, "head", r.Head.String(), "at", r.At.UTC()}
}

// Failure is the error of Deliverer.Open that says more than that it did not work now.
type Failure struct{ Result }

func (f *Failure) Error() string { return f.Text }

// Deliverer opens connections. It is called from several goroutines. Open and Send end soon after ctx.
type Deliverer interface {
	// Open connects to a destination. An error that is no *Failure is Temporary.
	Open(ctx context.Context, domain string) (Session, error)
}

// Session is a connection to one destination. One goroutine uses it.
type Session interface {
	// Send sends messages, pipelined, and returns the fates of the first of them, in their order. With
	// an error the connection is of no more use, and the rest has failed for now, with this reason.
	Send(ctx context.Context, items []Item) ([]Result, error)
	Close() error
}

// Reporter writes to the sender of a message, into the sender's own mailbox. What it
// has written is durable when it returns nil; asked again for the same it writes nothing. It is
// called from several goroutines.
type Reporter interface {
	// Failed says that the message was given up: item.State has the reason.
	Failed(ctx context.Context, item Item) error
	// Delayed says that the message is late, and until when it will be tried.
	Delayed(ctx context.Context, item Item, until time.Time) error
}

// Observer is told what becomes of messages. It must be quick.
type Observer interface {
	Delivered(n int)
	Deferred(n int) // attempts that failed for now, of messages
	Failed(n int)   // given up and reported
	// Refused is told why an attempt at a message, or a destination, has failed: the status of the
	// answer, 0 where there was none.
	Refused(status uint16)
}

// Config says how a queue works. Zero fields that have a default get it.
type Config struct {
	Store   Store
	Mailbox spool.MailboxID // where the messages are
	// Deliverer may be nil: then nothing is tried, and Closed says why to who looks at the queue.
	Deliverer Deliverer
	Closed    string
	Reporter  Reporter // needed with Deliverer
	Observer  Observer
	// Forget is told of a destination that the operator wants tried now, before it is: what is remembered of it and
	// may be out of date is to be asked for anew. It may be nil, and must be quick.
	Forget func(domain string)
	Now    func() time.Time
	Random func() float64 // from 0 up to 1
	Log    *slog.Logger

	FirstRetry  time.Duration // after the first attempt; 1 minute
	LastRetry   time.Duration // the longest that is waited; 4 hours
	MaxAge      time.Duration // how long it is tried; 10 days
	DelayNotice time.Duration // after which a sender is told; 4 hours
	OpenTimeout time.Duration // of Deliverer.Open; 1 minute, and less while it is unknown whether a destination answers
	Workers     int           // connections at a time; 64
	PerDomain   int           // of them to one destination; 2
	Batch       int           // messages in one Send; 100
}

// ErrConfig: a queue cannot work like that.
var ErrConfig = errors.New("queue: unusable configuration")

func (c *Config) complete() error {
	for _, d := range []struct {
		value  *time.Duration
		normal time.Duration
	}{
		{&c.FirstRetry, time.Minute}, {&c.LastRetry, 4 * time.Hour}, {&c.MaxAge, 240 * time.Hour},
		{&c.DelayNotice, 4 * time.Hour}, {&c.OpenTimeout, time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.normal
		}
		if *d.value < time.Second {
			return fmt.Errorf("%w: %s is less than a second", ErrConfig, *d.value)
		}
	}
	for _, n := range []struct {
		value       *int
		normal, max int
	}{{&c.Workers, 64, 1 << 14}, {&c.PerDomain, 2, 1 << 8}, {&c.Batch, 100, 1 << 10}} {
		if *n.value == 0 {
			*n.value = n.normal
		}
		if *n.value < 1 || *n.value > n.max {
			return fmt.Errorf("%w: %d is not between 1 and %d", ErrConfig, *n.value, n.max)
		}
	}
	if c.Store == nil || c.Mailbox == (spool.MailboxID{}) || c.Deliverer != nil && c.Reporter == nil {
		return fmt.Errorf("%w: Store, Mailbox, and with a Deliverer a Reporter are needed", ErrConfig)
	}
	if c.LastRetry < c.FirstRetry {
		return fmt.Errorf("%w: the first retry is later than the last", ErrConfig)
	}
	c.defaults()
	return nil
}

func (c *Config) defaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		c.Random = rand.Float64
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.Forget == nil {
		c.Forget = func(string) {}
	}
}

type nobody struct{}

func (nobody) Delivered(int)  {}
func (nobody) Deferred(int)   {}
func (nobody) Failed(int)     {}
func (nobody) Refused(uint16) {}

// A Queue sends what is in its mailbox. Its methods are safe for concurrent use.
type Queue struct {
	cfg     Config
	kick    chan struct{} // holds a token when there may be something to do
	errands chan struct{} // holds a token when there may be something on the desk

	mu      sync.Mutex
	loaded  bool                    // what was in the mailbox is in destinations
	early   []arrival               // added before that
	all     map[string]*destination // what has messages
	agenda  agenda                  // of all
	past    past                    // what had messages
	waiting [classes]line           // for a worker
	turn    class                   // whose turn it is to be asked first
	running [classes]int            // workers
	retry   time.Time               // the next doubtful destination may be dialled
	desk    []errand                // for the clerk
	queued  int                     // messages
	listed  spool.ID                // the newest message that was there when the mailbox was read
	adopted spool.ID                // the newest message that the operator named before Added did
	out     map[spool.ID]taken      // with a worker, the clerk or the operator
	freed   chan struct{}           // closed when one of them is given back; nil where nobody waits for it
	broken  error                   // the store has failed for good
	work    sync.WaitGroup
}

// taken is what is known of a message that is with somebody.
type taken struct {
	*destination
	arrived uint32
}

// arrival is a message that came while the queue was being loaded.
type arrival struct {
	id      spool.ID
	arrived time.Time
	domain  string
}

// New returns a queue that does nothing before Run.
func New(cfg Config) (*Queue, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &Queue{cfg: cfg, kick: make(chan struct{}, 1), all: make(map[string]*destination), out: make(map[spool.ID]taken), errands: make(chan struct{}, 1)}, nil
}

// Added tells of a message that was just stored in the mailbox, and must tell of it once: two
// workers could send one that is taken in twice. It does not wait for anything.
func (q *Queue) Added(id spool.ID, domain string) {
	q.mu.Lock()
	a := arrival{id, q.cfg.Now(), Domain(domain)}
	if !q.loaded {
		q.early = append(q.early, a)
	} else {
		q.arrive(a)
	}
	q.mu.Unlock()
	q.signal()
}

// arrive takes a new message in. Under mu.
func (q *Queue) arrive(a arrival) {
	if a.id <= q.listed || a.id <= q.adopted && q.knows(a.id, a.domain) {
		return
	}
	d := q.destination(a.domain)
	q.put(d, item{id: a.id, arrived: until(a.arrived)}, false)
	q.queued++
	q.plan(d)
}

func (q *Queue) signal() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// Stats are a queue's numbers at one moment.
type Stats struct {
	Queued       int // messages
	Held         int // of them, by the operator
	Destinations int
	Workers      int       // busy
	Oldest       time.Time // arrival of the oldest message; zero for none
}

// Stats counts. It looks at every message.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{Queued: q.queued, Destinations: len(q.all), Workers: q.workers()}
	oldest := never
	for _, d := range q.all {
		for _, list := range [][]item{d.ready, d.later} {
			for i := range list {
				if oldest = min(oldest, list[i].arrived); list[i].flags&itemHeld != 0 {
					s.Held++
				}
			}
		}
	}
	if oldest != never {
		s.Oldest = time.Unix(int64(oldest), 0).UTC()
	}
	return s
}
