// Package letter turns what a person writes into a message that only its reader
// can open, and such a message back into what a person reads.
//
// It guarantees that attachments of any size take constant memory both ways;
// that a file that changes while it is being sent ends the message before it is
// whole; that nothing of a message that was opened is handed out before all of it
// was found unaltered; and that its helpers let no field of a letter, which a
// stranger wrote, steer a terminal or choose where a file is written.
//
// A letter's source is a claim. In CMTP 0.01 nothing proves it (docs/protocol.md,
// Security considerations).
package letter

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Errors of writing and of reading letters. Those of packages cmtp and crypt are
// wrapped as they are.
var (
	// ErrField: a field of a draft could not be sent as it is.
	ErrField = errors.New("this cannot be sent")
	// ErrChanged: a file changed while it was being sent.
	ErrChanged = errors.New("the file changed while it was being sent")
	// ErrNotRegular: what was named as an attachment is no regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrKeys: the message is sealed to a key that is not among those given.
	ErrKeys = errors.New("none of the keys opens this message")
	// ErrTooLarge: the message is too large to be opened here.
	ErrTooLarge = errors.New("the message is too large to open")
)

// An Attachment is a named file: on its way out, or out of a message that was
// opened. There the name is a stranger's choice: FileName makes it safe.
type Attachment struct {
	Name string
	Size int64 // bytes of Data
	Data io.ReaderAt
}

// A Draft is a letter before it is sealed. It may be sealed to several readers,
// one after another.
type Draft struct {
	Time        time.Time // sent as whole seconds
	Subject     string
	ReplyTo     string
	CC          []string
	Text        []byte // UTF-8
	Attachments []Attachment
}

// A Message is a letter sealed to one reader: what cmtp.WriteMessage and
// client.Conn.Send take.
type Message struct {
	Header      cmtp.Header
	Log         []byte // nil unless Sign or Vouch was called
	Body        cmtp.Part
	Attachments []cmtp.Part

	source address.Address
	sealed []summed // body and attachments
}

// A summed is a part whose SHA-256 is to be had before it is written.
type summed interface {
	cmtp.Part
	Sum() ([sha256.Size]byte, error)
}

// Sign writes into the log that the source, whose account has the key, submits the message
// (docs/protocol.md section 17.6). The signature stands before what it is about, so every
// attachment is read once more; that of a file that changed meanwhile is an error. It comes
// before the message is written.
func (m *Message) Sign(when time.Time, key *crypt.PrivateKey) error {
	digest, err := m.digest()
	if err != nil {
		return fmt.Errorf("signing the letter: %w", err)
	}
	s := crypt.NewSender(digest, m.source, crypt.UnixTimeOf(when), key)
	m.Log = append(m.Log, s.String()+"\x00"...)
	return nil
}

// Vouch writes into the log that the server of the source's domain, which has the key, knows where
// the message is from. It is for what that server writes by itself; the rest is as with Sign.
func (m *Message) Vouch(when time.Time, server *crypt.PrivateKey) error {
	digest, err := m.digest()
	if err != nil {
		return fmt.Errorf("vouching for the letter: %w", err)
	}
	o := crypt.NewOrigin(digest, m.source, crypt.UnixTimeOf(when), server)
	m.Log = append(m.Log, o.String()+"\x00"...)
	return nil
}

// digest returns the core digest.
func (m *Message) digest() (digest [32]byte, err error) {
	var sums []cmtp.Sum
	for _, p := range m.sealed {
		sum, err := p.Sum()
		if err != nil {
			return digest, err
		}
		sums = append(sums, cmtp.Sum{Length: p.Size(), SHA256: sum})
	}
	return cmtp.CoreDigest(m.Header, sums[0], sums[1:]), nil
}

// Size returns how many bytes the message has on the wire.
func (m *Message) Size() int64 { return cmtp.MessageSize(m.Header, m.Log, m.Body, m.Attachments) }

// WriteTo writes the message in the form of the wire. An error of a file that
// changed comes before the message's last byte was written.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	n := counter{w: w}
	err := cmtp.WriteMessage(&n, m.Header, m.Log, m.Body, m.Attachments)
	return n.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// Seal seals the letter to the owner of key. It reads every attachment once, and
// writing the message reads it again. The error wraps ErrField where a field
// cannot be sent, and crypt.ErrPublicKey for an unusable key.
func (d *Draft) Seal(from, to address.Address, key crypt.PublicKey) (*Message, error) {
	body, err := d.body()
	if err != nil {
		return nil, err
	}
	sealed, err := crypt.Seal(nil, body, key)
	if err != nil {
		return nil, fmt.Errorf("sealing the letter: %w", err)
	}
	m := &Message{
		Header: cmtp.Header{
			System:             cmtp.SystemSealed,
			DestinationAccount: to.Account.String(), DestinationDomain: to.Domain.String(),
			SourceAccount: from.Account.String(), SourceDomain: from.Domain.String(),
		},
		Body: inMemory(sealed), source: from, sealed: []summed{inMemory(sealed)},
	}
	for _, a := range d.Attachments {
		name, err := sentName(a.Name)
		if err != nil {
			return nil, err
		}
		src := &named{name: append([]byte(name), 0), data: a.Data, size: a.Size}
		part, err := crypt.NewSealer(src, src.length(), key)
		if err != nil {
			return nil, fmt.Errorf("sealing %q: %w", name, err)
		}
		m.Attachments, m.sealed = append(m.Attachments, part), append(m.sealed, part)
	}
	return m, nil
}

// Check returns the error that Seal would return for the letter's fields and text.
func (d *Draft) Check() error {
	_, err := d.body()
	return err
}

// body returns the body's plaintext.
func (d *Draft) body() ([]byte, error) {
	sec := d.Time.Unix()
	if sec < 0 || sec > math.MaxUint32 {
		return nil, fmt.Errorf("%w: the clock says %v", ErrField, d.Time)
	}
	for _, s := range append([]string{d.Subject, d.ReplyTo}, d.CC...) {
		if Line(s) != s {
			return nil, fmt.Errorf("%w: %q holds a line break or a character that cannot be seen", ErrField, s)
		}
	}
	b := cmtp.Body{Time: uint32(sec), Subject: d.Subject, ReplyTo: d.ReplyTo, CC: d.CC, Text: d.Text}
	p, err := b.Append(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrField, err)
	}
	return p, nil
}

// inMemory is a part that is small enough to be sealed at once.
type inMemory []byte

func (p inMemory) Size() int64 { return int64(len(p)) }

func (p inMemory) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

func (p inMemory) Sum() ([sha256.Size]byte, error) { return sha256.Sum256(p), nil }

// named is an attachment's plaintext: its name and a NUL, then the data.
type named struct {
	name []byte
	data io.ReaderAt
	size int64 // of data
}

func (s *named) length() int64 { return int64(len(s.name)) + s.size }

func (s *named) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(s.name)) {
		n = copy(p, s.name[off:])
		if n == len(p) {
			return n, nil
		}
	}
	m, err := s.data.ReadAt(p[n:], off+int64(n)-int64(len(s.name)))
	return n + m, err
}
