package letter

import (
	"errors"
	"fmt"
	"io"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Limits of what is held in memory, in bytes. Attachments are not.
const (
	maxBody  = 64 << 20
	maxNames = 4 << 20 // of all attachments together
)

// A Letter is a message that was opened. Every string in it is a stranger's: Line
// and Text make them fit to show.
type Letter struct {
	Header      cmtp.Header // the envelope, in the clear on its way here
	Log         []string    // entries of servers on the way
	Sealed      bool        // whether it was encrypted at all
	Time        time.Time   // as its writer says
	Subject     string
	ReplyTo     string
	CC          []string
	Text        []byte // UTF-8
	Attachments []Attachment
}

// Open opens the message of size bytes that r holds with the first of the keys
// that fits. It returns once body and attachments were all found unaltered; r must
// not change as long as the attachments are read.
//
// The error wraps ErrKeys, ErrTooLarge, crypt.ErrOpen for an attachment that was
// altered, and package cmtp's errors for what is no message.
func Open(r io.ReaderAt, size int64, keys []*crypt.PrivateKey) (*Letter, error) {
	layout, err := cmtp.ParseLayout(r, size)
	if err != nil {
		return nil, err
	}
	l := &Letter{
		Header: layout.Header,
		Log:    cmtp.LogEntries(layout.Log),
		Sealed: layout.Header.System != cmtp.SystemPlain,
	}
	o := opener{r: r}
	body, err := o.body(layout.Body, l.Sealed, keys)
	if err != nil {
		return nil, err
	}
	if err := l.readBody(body); err != nil {
		return nil, err
	}
	names := 0
	for i, extent := range layout.Attachments {
		a, err := o.attachment(extent)
		if err != nil {
			return nil, fmt.Errorf("opening attachment %d of %d: %w", i+1, len(layout.Attachments), err)
		}
		if names += len(a.Name); names > maxNames {
			return nil, fmt.Errorf("%w: the names of its attachments exceed %d bytes", ErrTooLarge, maxNames)
		}
		l.Attachments = append(l.Attachments, a)
	}
	return l, nil
}

// plaintext is what a part holds.
type plaintext interface {
	io.ReaderAt
	Size() int64
}

// opener opens parts: with key, or as they are where it is nil.
type opener struct {
	r   io.ReaderAt
	key *crypt.PrivateKey
}

// body returns the body's plaintext, and makes the key that it is sealed to the
// opener's.
func (o *opener) body(e cmtp.Extent, sealed bool, keys []*crypt.PrivateKey) (plaintext, error) {
	if e.Length > maxBody {
		return nil, fmt.Errorf("%w: its text has %d bytes, more than %d", ErrTooLarge, e.Length, maxBody)
	}
	if !sealed {
		return e.Section(o.r), nil
	}
	for _, o.key = range keys {
		p, err := o.part(e)
		if !errors.Is(err, crypt.ErrOpen) {
			return p, err
		}
	}
	return nil, fmt.Errorf("%w: it was sealed to another key, or altered", ErrKeys)
}

func (o *opener) part(e cmtp.Extent) (plaintext, error) {
	section := e.Section(o.r)
	if o.key == nil {
		return section, nil
	}
	return o.key.OpenAt(section, section.Size())
}

func (o *opener) attachment(e cmtp.Extent) (Attachment, error) {
	plain, err := o.part(e)
	if err != nil {
		return Attachment{}, err
	}
	head := make([]byte, min(plain.Size(), cmtp.MaxFileName+1))
	if n, err := plain.ReadAt(head, 0); n < len(head) {
		return Attachment{}, fmt.Errorf("reading its name: %w", err)
	}
	name, n, err := cmtp.CutFileName(head)
	if err != nil {
		return Attachment{}, err
	}
	size := plain.Size() - int64(n)
	return Attachment{Name: name, Size: size, Data: io.NewSectionReader(plain, int64(n), size)}, nil
}

func (l *Letter) readBody(plain plaintext) error {
	p := make([]byte, plain.Size())
	if n, err := plain.ReadAt(p, 0); n < len(p) {
		return fmt.Errorf("reading the letter: %w", err)
	}
	b, err := cmtp.ParseBody(p)
	if err != nil {
		return err
	}
	l.Time = time.Unix(int64(b.Time), 0)
	l.Subject, l.ReplyTo, l.CC, l.Text = b.Subject, b.ReplyTo, b.CC, b.Text
	return nil
}
