package cmtp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// fixedHeader is the length of the four integers that begin a message.
const fixedHeader = 4 + 4 + 8 + 8

// A Header is what stands before a message's log: its lengths and its envelope
// (docs/protocol.md, Messages). The names are as sent, without their NULs.
type Header struct {
	System      uint32 // crypto system of body and attachments
	Attachments uint32
	LogLength   uint64 // bytes
	BodyLength  uint64 // bytes, sealed

	DestinationAccount string
	DestinationDomain  string
	SourceAccount      string
	SourceDomain       string
}

// Append appends the header as it stands on the wire.
func (h *Header) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, h.System)
	dst = binary.BigEndian.AppendUint32(dst, h.Attachments)
	dst = binary.BigEndian.AppendUint64(dst, h.LogLength)
	dst = binary.BigEndian.AppendUint64(dst, h.BodyLength)
	for _, s := range h.names() {
		dst = append(append(dst, s...), 0)
	}
	return dst
}

// names returns the envelope in the order of the wire.
func (h *Header) names() [4]string {
	return [...]string{h.DestinationAccount, h.DestinationDomain, h.SourceAccount, h.SourceDomain}
}

// size is the header's own length on the wire.
func (h *Header) size() uint64 {
	n := uint64(fixedHeader)
	for _, s := range h.names() {
		n += uint64(len(s)) + 1
	}
	return n
}

// leastSize returns the fewest bytes that a message with this header can have,
// or false when they exceed 64 bits.
func (h *Header) leastSize() (uint64, bool) {
	each := uint64(8)
	if h.System == SystemSealed {
		each += SealOverhead
	}
	total, c1 := bits.Add64(h.size(), h.LogLength, 0)
	total, c2 := bits.Add64(total, h.BodyLength, 0)
	total, c3 := bits.Add64(total, uint64(h.Attachments)*each, 0)
	return total, c1+c2+c3 == 0
}

// check refuses a header that no message within limit bytes can have.
func (h *Header) check(limit uint64) error {
	if h.System > SystemSealed {
		return fmt.Errorf("%w: %d", ErrSystem, h.System)
	}
	if h.LogLength > MaxLog {
		return fmt.Errorf("%w: a log of %d bytes, at most %d are allowed", ErrTooLarge, h.LogLength, MaxLog)
	}
	if h.Attachments > MaxAttachments {
		return fmt.Errorf("%w: %d attachments, at most %d are allowed", ErrTooLarge, h.Attachments, MaxAttachments)
	}
	if least, ok := h.leastSize(); !ok || least > limit {
		return fmt.Errorf("%w of %d bytes", ErrTooLarge, limit)
	}
	return checkPart(h.System, "body", h.BodyLength)
}

// checkPart refuses a part that cannot be what its crypto system makes.
func checkPart(system uint32, what string, length uint64) error {
	if system == SystemSealed && length < SealOverhead {
		return fmt.Errorf("%w: a %s of %d bytes is shorter than any sealed box", ErrMessage, what, length)
	}
	return nil
}

// checkText refuses names and a log that would not read back as they are.
func (h *Header) checkText(log []byte) error {
	for _, s := range h.names() {
		if len(s) > MaxString || strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
			return fmt.Errorf("%w: %q is no name", ErrMessage, s)
		}
	}
	return checkLog(log)
}

// A Source is what messages are read from: bufio.Reader, netbuf.Reader and
// bytes.Reader are such. Strings end where their NUL stands, so reading them
// without taking what follows needs single bytes.
type Source interface {
	io.Reader
	io.ByteReader
}

// readHeader reads a header and returns it with its bytes.
func readHeader(src Source) (h Header, raw []byte, err error) {
	raw = make([]byte, fixedHeader, fixedHeader+128)
	if _, err := io.ReadFull(src, raw); err != nil {
		return h, nil, fmt.Errorf("reading a message's lengths: %w", cut(err))
	}
	h.System = binary.BigEndian.Uint32(raw)
	h.Attachments = binary.BigEndian.Uint32(raw[4:])
	h.LogLength = binary.BigEndian.Uint64(raw[8:])
	h.BodyLength = binary.BigEndian.Uint64(raw[16:])
	for range h.names() {
		if raw, err = readName(src, raw); err != nil {
			return h, nil, fmt.Errorf("reading a message's names: %w", err)
		}
	}
	names := string(raw[fixedHeader:])
	for _, name := range [...]*string{&h.DestinationAccount, &h.DestinationDomain, &h.SourceAccount, &h.SourceDomain} {
		*name, names, _ = strings.Cut(names, "\x00")
	}
	return h, raw, nil
}

// readName appends one string and its NUL to raw.
func readName(src Source, raw []byte) ([]byte, error) {
	start := len(raw)
	for {
		c, err := src.ReadByte()
		if err != nil {
			return nil, cut(err)
		}
		raw = append(raw, c)
		if c == 0 {
			break
		}
		if len(raw)-start > MaxString {
			return nil, fmt.Errorf("%w: a name exceeds %d bytes", ErrMessage, MaxString)
		}
	}
	if !utf8.Valid(raw[start:]) {
		return nil, fmt.Errorf("%w: a name is not UTF-8", ErrMessage)
	}
	return raw, nil
}

// cut makes of a stream's end what it is inside a message or a reply.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A MessageReader reads one message from a stream and yields its bytes exactly
// as they stand on the wire, from the first byte of the version to the last of
// the last attachment, then io.EOF. It never reads behind the message's end.
//
// A message that breaks a rule ends in an error that wraps ErrMessage or
// ErrTooLarge before any of the offending part is yielded; a stream that stops
// early ends in io.ErrUnexpectedEOF. Errors are final.
type MessageReader struct {
	src    Source
	header Header
	limit  uint64

	pending  []byte // header, log or attachment length not yet yielded
	log      []byte
	section  uint64 // bytes left of the part that is being yielded
	budget   uint64 // bytes that may still follow, given what is promised
	next     stage  // what follows when pending and section are used up
	partLeft uint32 // attachments not yet begun
	length   uint64 // of the attachment that is being yielded
	prefix   [8]byte
	core     coreDigest
	err      error
}

type stage uint8

const (
	stageLog stage = iota
	stageBody
	stageBodyEnd
	stageAttachment
	stageAttachmentEnd
)

// NewMessageReader reads a message's header from src and refuses it when it
// cannot be read, when no message of at most limit bytes has such a header, or
// when its crypto system is unknown.
//
// With ErrTooLarge or ErrSystem the header that was read is returned too, so
// that the refusal can be explained.
func NewMessageReader(src Source, limit uint64) (*MessageReader, error) {
	h, raw, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	r := &MessageReader{src: src, header: h, limit: limit, pending: raw, partLeft: h.Attachments}
	if r.err = h.check(limit); r.err != nil {
		return r, r.err
	}
	least, _ := h.leastSize()
	r.budget = limit - least
	r.core = newCoreDigest(raw)
	return r, nil
}

// Header returns the message's header.
func (r *MessageReader) Header() *Header { return &r.header }

// Digest returns the core digest of a message that was read to its end
// (docs/protocol.md, Core digest).
func (r *MessageReader) Digest() ([32]byte, error) {
	if r.err != io.EOF {
		return [32]byte{}, fmt.Errorf("%w: digest of a message that was not read to its end", ErrMessage)
	}
	return r.core.sum(), nil
}

// Read yields the message's next bytes.
func (r *MessageReader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if len(r.pending) > 0 {
			n := copy(p, r.pending)
			r.pending = r.pending[n:]
			return n, nil
		}
		if r.section > 0 {
			return r.readSection(p)
		}
		r.advance()
	}
}

func (r *MessageReader) readSection(p []byte) (int, error) {
	if uint64(len(p)) > r.section {
		p = p[:r.section]
	}
	n, err := r.src.Read(p)
	r.section -= uint64(n)
	r.core.write(p[:n])
	// An error that comes along with a part's last bytes belongs to what follows.
	if err != nil && r.section > 0 {
		r.err = fmt.Errorf("reading a message's parts: %w", cut(err))
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// advance moves to the next part, whose bytes stand in pending or section then.
func (r *MessageReader) advance() {
	switch r.next {
	case stageLog:
		r.log, r.err = readLog(r.src, r.header.LogLength)
		r.pending = r.log
		r.next = stageBody
	case stageBody:
		r.section = r.header.BodyLength
		r.next = stageBodyEnd
	case stageBodyEnd:
		r.core.endBody()
		r.next = stageAttachment
	case stageAttachment:
		if r.partLeft == 0 {
			r.err = io.EOF
			return
		}
		r.partLeft--
		r.err = r.beginAttachment()
		r.next = stageAttachmentEnd
	case stageAttachmentEnd:
		r.core.endAttachment(r.length)
		r.next = stageAttachment
	}
}

func (r *MessageReader) beginAttachment() error {
	if _, err := io.ReadFull(r.src, r.prefix[:]); err != nil {
		return fmt.Errorf("reading an attachment's length: %w", cut(err))
	}
	r.length = binary.BigEndian.Uint64(r.prefix[:])
	if err := checkPart(r.header.System, "sealed attachment", r.length); err != nil {
		return err
	}
	more := r.length
	if r.header.System == SystemSealed {
		more -= SealOverhead // promised, and so counted, with the header
	}
	if more > r.budget {
		return fmt.Errorf("%w of %d bytes", ErrTooLarge, r.limit)
	}
	r.budget -= more
	r.pending, r.section = r.prefix[:], r.length
	return nil
}

// readLog reads the log and refuses one that is not a list of strings.
func readLog(src io.Reader, length uint64) ([]byte, error) {
	log := make([]byte, length)
	if _, err := io.ReadFull(src, log); err != nil {
		return nil, fmt.Errorf("reading a message's log: %w", cut(err))
	}
	if err := checkLog(log); err != nil {
		return nil, err
	}
	return log, nil
}

// Log returns the message's log, once it has been read over. It is not to be changed.
func (r *MessageReader) Log() []byte { return r.log }

func checkLog(log []byte) error {
	if len(log) > 0 && log[len(log)-1] != 0 {
		return fmt.Errorf("%w: the log does not end in a NUL", ErrMessage)
	}
	if !utf8.Valid(log) {
		return fmt.Errorf("%w: the log is not UTF-8", ErrMessage)
	}
	return nil
}

// LogEntries returns the strings of a log. The empty log, a lone NUL or nothing
// at all, has none.
func LogEntries(log []byte) []string {
	if len(log) <= 1 {
		return nil
	}
	var entries []string
	for e := range bytes.SplitSeq(log[:len(log)-1], []byte{0}) {
		entries = append(entries, string(e))
	}
	return entries
}
