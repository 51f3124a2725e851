package cmtp

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Limits of the mailbox (docs/protocol.md section 30).
const (
	// MaxEntries is how many entries LIST and CHANGES answer with at most.
	MaxEntries = 1000
	// MaxWaitEntries is how many entries WAIT answers with at most.
	MaxWaitEntries = 100
	// MaxPage is the longest payload of LIST, CHANGES and WAIT in bytes.
	MaxPage = 1_249_280
	// MaxDelete is how many numbers a DELETE has at most.
	MaxDelete = 1000
	// MaxKeywords is how many bytes of keywords a message has at most.
	MaxKeywords = 128
	// MaxWait is how many seconds a WAIT may ask for.
	MaxWait = 1740
	// MaxFlags is how many messages one FLAG can be about.
	MaxFlags = MaxForm / flagItem
	// MaxHeader is the longest header of a message in bytes.
	MaxHeader = fixedHeader + 4*(MaxString+1)
	// MaxNumber is the highest number of a message or change.
	MaxNumber = math.MaxInt64
	// UserFlags are the flags that users set and clear.
	UserFlags = 1<<16 - 1
)

// Flags that mean something to every client (docs/protocol.md section 26.2).
const (
	FlagSeen uint32 = 1 << iota
	FlagAnswered
	FlagFlagged
)

// Sizes in bytes of what is fixed in an answer or a form.
const (
	stateSize  = 16 + 5*8
	pageHead   = 16 + 8 + 1
	flagItem   = 8 + 8 + 4 + 4 + 1
	flagResult = 2 + 8
)

// maxTime is the last second that an entry may name, of the year 9999.
const maxTime = 253402300799

// keepKeywords stands in an item of FLAG for keywords that stay as they are.
const keepKeywords = 255

// An Epoch is that within which the numbers of a mailbox hold (docs/protocol.md section 26.1).
type Epoch [16]byte

// A Standing says who brought a message, as far as its server knows (docs/protocol.md
// section 26.3). One that is not known counts as StandingClaimed.
type Standing uint8

// The standings.
const (
	StandingUnknown   Standing = iota
	StandingClaimed            // the source is a claim of whoever brought it
	StandingVouched            // the source's domain vouches for it
	StandingSubmitted          // by the source's own user, proven here
	StandingServer             // by this server itself
)

// A ListQuery is what LIST asks for: messages with numbers above Number, ascending, or,
// with Down, below it, descending.
type ListQuery struct {
	Down   bool
	Number uint64
	Count  uint32 // 1 to MaxEntries
}

// Append appends the query as it stands behind its verb.
func (q *ListQuery) Append(dst []byte) []byte {
	direction := byte(0)
	if q.Down {
		direction = 1
	}
	dst = binary.BigEndian.AppendUint64(append(dst, direction), q.Number)
	return binary.BigEndian.AppendUint32(dst, q.Count)
}

// ParseListQuery reads the parameters of LIST. Its error, as that of the other queries,
// wraps ErrForm.
func ParseListQuery(b []byte) (q ListQuery, err error) {
	p := formParser{rest: b}
	direction := p.byte("a direction")
	if direction > 1 {
		p.refuse("a direction of %d", direction)
	}
	q = ListQuery{direction == 1, p.uint64("a number"), p.uint32("a count")}
	p.count(q.Count)
	return q, p.end()
}

// A ChangesQuery is what CHANGES asks for.
type ChangesQuery struct {
	Epoch  Epoch
	Change uint64
	Count  uint32 // 1 to MaxEntries
}

// Append appends the query as it stands behind its verb.
func (q *ChangesQuery) Append(dst []byte) []byte { return appendSince(dst, q.Epoch, q.Change, q.Count) }

func appendSince(dst []byte, e Epoch, change uint64, n uint32) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, e[:]...), change)
	return binary.BigEndian.AppendUint32(dst, n)
}

// ParseChangesQuery reads the parameters of CHANGES.
func ParseChangesQuery(b []byte) (q ChangesQuery, err error) {
	p := formParser{rest: b}
	q = ChangesQuery{p.epoch(), p.uint64("a change number"), p.uint32("a count")}
	p.count(q.Count)
	return q, p.end()
}

// A WaitQuery is what WAIT asks for.
type WaitQuery struct {
	Epoch   Epoch
	Change  uint64
	Seconds uint32 // 1 to MaxWait
}

// Append appends the query as it stands behind its verb.
func (q *WaitQuery) Append(dst []byte) []byte { return appendSince(dst, q.Epoch, q.Change, q.Seconds) }

// ParseWaitQuery reads the parameters of WAIT.
func ParseWaitQuery(b []byte) (q WaitQuery, err error) {
	p := formParser{rest: b}
	q = WaitQuery{p.epoch(), p.uint64("a change number"), p.uint32("a number of seconds")}
	if q.Seconds < 1 || q.Seconds > MaxWait {
		p.refuse("a wait of %d seconds, 1 to %d are allowed", q.Seconds, MaxWait)
	}
	return q, p.end()
}

// Changes returns the CHANGES that a WAIT is answered as.
func (q *WaitQuery) Changes() ChangesQuery { return ChangesQuery{q.Epoch, q.Change, MaxWaitEntries} }

// A FetchQuery is what FETCH asks for: bytes of a message.
type FetchQuery struct{ Number, Offset, Length uint64 }

// Append appends the query as it stands behind its verb.
func (q *FetchQuery) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, q.Number)
	dst = binary.BigEndian.AppendUint64(dst, q.Offset)
	return binary.BigEndian.AppendUint64(dst, q.Length)
}

// ParseFetchQuery reads the parameters of FETCH.
func ParseFetchQuery(b []byte) (q FetchQuery, err error) {
	p := formParser{rest: b}
	q = FetchQuery{p.uint64("a number"), p.uint64("an offset"), p.uint64("a length")}
	return q, p.end()
}

// A MailboxState is what MAILBOX answers.
type MailboxState struct {
	Epoch    Epoch
	Highest  uint64 // number of the newest message; 0 where there is none
	Change   uint64 // the highest change number
	Messages uint64
	Bytes    uint64
	Quota    uint64 // how many bytes there may be
}

// Append appends the state as it stands in the answer.
func (s *MailboxState) Append(dst []byte) []byte {
	dst = append(dst, s.Epoch[:]...)
	for _, v := range [...]uint64{s.Highest, s.Change, s.Messages, s.Bytes, s.Quota} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

// ParseMailboxState reads the answer to MAILBOX. Its error wraps ErrReply.
func ParseMailboxState(b []byte) (s MailboxState, err error) {
	p := formParser{rest: b}
	s.Epoch = p.epoch()
	for _, v := range [...]*uint64{&s.Highest, &s.Change, &s.Messages, &s.Bytes, &s.Quota} {
		*v = p.uint64("a number")
		if *v > MaxNumber {
			p.refuse("a number of %d", *v)
		}
	}
	return s, p.lie()
}

// A FlagItem is what FLAG asks for one message.
type FlagItem struct {
	Number      uint64
	Expect      uint64 // the change number that it has to have; 0 for any
	Mask        uint32 // the flags that are set or cleared
	Flags       uint32 // their values
	SetKeywords bool   // else Keywords is empty, and they stay as they are
	Keywords    []byte // at most MaxKeywords
}

// Append appends the item as it stands in the form.
func (i *FlagItem) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, i.Number)
	dst = binary.BigEndian.AppendUint64(dst, i.Expect)
	dst = binary.BigEndian.AppendUint32(dst, i.Mask)
	dst = binary.BigEndian.AppendUint32(dst, i.Flags)
	if !i.SetKeywords {
		return append(dst, keepKeywords)
	}
	return append(append(dst, byte(len(i.Keywords))), i.Keywords...)
}

// ParseFlagForm reads the form of FLAG. Keywords are parts of b. The error wraps ErrForm.
func ParseFlagForm(b []byte) (items []FlagItem, err error) {
	p := formParser{rest: b}
	for len(p.rest) > 0 && p.err == nil {
		i := FlagItem{Number: p.uint64("a number"), Expect: p.uint64("a change number"), Mask: p.uint32("a mask"), Flags: p.uint32("flags")}
		if i.Mask > UserFlags || i.Flags&^i.Mask != 0 {
			p.refuse("flags of %#x under a mask of %#x", i.Flags, i.Mask)
		}
		if k := p.byte("a length"); k != keepKeywords {
			i.SetKeywords, i.Keywords = true, p.keywords(k)
		}
		items = append(items, i)
	}
	if p.err != nil {
		return nil, p.err
	}
	return items, nil
}

// A FlagResult is what became of an item of FLAG.
type FlagResult struct {
	Status Status
	Change uint64 // the message's change number now; 0 where there is none
}

// Append appends the result as it stands in the answer.
func (r *FlagResult) Append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(dst, uint16(r.Status)), r.Change)
}

// ParseFlagResults reads the answer to FLAG of n items. Its error wraps ErrReply.
func ParseFlagResults(b []byte, n int) ([]FlagResult, error) {
	if len(b) != n*flagResult {
		return nil, fmt.Errorf("%w: %d bytes, where there must be %d", ErrReply, len(b), n*flagResult)
	}
	p := formParser{rest: b}
	results := make([]FlagResult, n)
	for i := range results {
		r := FlagResult{Status(p.uint16("a status")), p.uint64("a change number")}
		hasChange := r.Status.Done() || r.Status == StatusChanged
		if !r.Status.valid() || r.Change > MaxNumber || hasChange != (r.Change != 0) {
			p.refuse("status %d with change number %d", uint16(r.Status), r.Change)
		}
		results[i] = r
	}
	return results, p.lie()
}

// AppendDeleteForm appends the form of DELETE, without its length.
func AppendDeleteForm(dst []byte, numbers []uint64) []byte {
	for _, n := range numbers {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return dst
}

// ParseDeleteForm reads the form of DELETE. The error wraps ErrForm.
func ParseDeleteForm(b []byte) ([]uint64, error) {
	if len(b)%8 != 0 || len(b) > 8*MaxDelete {
		return nil, fmt.Errorf("%w: %d bytes are no list of up to %d numbers", ErrForm, len(b), MaxDelete)
	}
	numbers := make([]uint64, 0, len(b)/8)
	for ; len(b) > 0; b = b[8:] {
		numbers = append(numbers, binary.BigEndian.Uint64(b))
	}
	return numbers, nil
}

// AppendDeleted appends the answer to DELETE.
func AppendDeleted(dst []byte, removed uint32) []byte {
	return binary.BigEndian.AppendUint32(dst, removed)
}

// ParseDeleted reads the answer to DELETE of n numbers. Its error wraps ErrReply.
func ParseDeleted(b []byte, n int) (int, error) {
	p := formParser{rest: b}
	removed := p.uint32("a count")
	if uint64(removed) > uint64(n) {
		p.refuse("%d messages are removed of %d", removed, n)
	}
	return int(removed), p.lie()
}

// byte, uint16, uint32 and uint64 return the next integer, 0 where there is none.
func (p *formParser) byte(what string) byte {
	if b := p.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (p *formParser) uint16(what string) uint16 {
	if b := p.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (p *formParser) uint32(what string) uint32 {
	if b := p.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *formParser) uint64(what string) uint64 {
	if b := p.take(8, what); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *formParser) epoch() (e Epoch) {
	copy(e[:], p.take(len(e), "an epoch"))
	return e
}

// count refuses a number of entries that cannot be asked for.
func (p *formParser) count(n uint32) {
	if n < 1 || n > MaxEntries {
		p.refuse("a count of %d, 1 to %d are allowed", n, MaxEntries)
	}
}

// keywords returns the next k bytes. They are copied: an answer's buffer is long.
func (p *formParser) keywords(k byte) []byte {
	if k > MaxKeywords {
		p.refuse("keywords of %d bytes, at most %d are allowed", k, MaxKeywords)
		return nil
	}
	return append([]byte(nil), p.take(int(k), "keywords")...)
}

// end refuses what stands behind the last field.
func (p *formParser) end() error {
	if p.err == nil && len(p.rest) > 0 {
		p.refuse("%d bytes stand behind its end", len(p.rest))
	}
	return p.err
}

// lie is end for an answer: what is wrong with it is the server's doing.
func (p *formParser) lie() error {
	if err := p.end(); err != nil {
		return fmt.Errorf("%w: %v", ErrReply, err)
	}
	return nil
}
