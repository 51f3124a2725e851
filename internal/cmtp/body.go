package cmtp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxBodyHead is the most that a body's timestamp, subject, reply-to and copies
// may take together, in bytes with all their NULs. The text has no such limit.
const MaxBodyHead = 1 << 20

// A Body is what a message's first sealed part holds (docs/protocol.md, Body).
type Body struct {
	Time    uint32 // Unix seconds
	Subject string
	ReplyTo string
	CC      []string // none of them empty
	Text    []byte   // UTF-8, to the body's end
}

// Append appends the body's plaintext. It refuses fields that would not read
// back as they are: a NUL in a string, an empty copy, bytes that are not UTF-8,
// more than MaxBodyHead bytes before the text.
func (b *Body) Append(dst []byte) ([]byte, error) {
	for _, s := range append([]string{b.Subject, b.ReplyTo}, b.CC...) {
		if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
			return nil, fmt.Errorf("%w: %q holds a NUL or is not UTF-8", ErrBody, s)
		}
	}
	if !utf8.Valid(b.Text) {
		return nil, fmt.Errorf("%w: the text is not UTF-8", ErrBody)
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, b.Time)
	dst = append(append(dst, b.Subject...), 0)
	dst = append(append(dst, b.ReplyTo...), 0)
	for _, s := range b.CC {
		if s == "" {
			return nil, fmt.Errorf("%w: a carbon copy is empty", ErrBody)
		}
		dst = append(append(dst, s...), 0)
	}
	if len(b.CC) == 0 {
		dst = append(dst, 0)
	}
	dst = append(dst, 0)
	if len(dst)-start > MaxBodyHead {
		return nil, fmt.Errorf("%w: more than %d bytes before the text", ErrBody, MaxBodyHead)
	}
	return append(dst, b.Text...), nil
}

// ParseBody parses a body's plaintext. The Text is a part of p.
func ParseBody(p []byte) (*Body, error) {
	if len(p) < 4 {
		return nil, fmt.Errorf("%w: %d bytes hold no timestamp", ErrBody, len(p))
	}
	b := &Body{Time: binary.BigEndian.Uint32(p)}
	rest := p[4:min(len(p), MaxBodyHead)]
	var err error
	if b.Subject, rest, err = bodyString(rest, "subject"); err != nil {
		return nil, err
	}
	if b.ReplyTo, rest, err = bodyString(rest, "reply-to"); err != nil {
		return nil, err
	}
	for {
		var s string
		if s, rest, err = bodyString(rest, "list of copies"); err != nil {
			return nil, err
		}
		if s == "" {
			break
		}
		b.CC = append(b.CC, s)
	}
	// Without copies there is an empty string and then the list's end.
	if len(b.CC) == 0 {
		if len(rest) == 0 || rest[0] != 0 {
			return nil, fmt.Errorf("%w: the empty list of copies has no end", ErrBody)
		}
		rest = rest[1:]
	}
	b.Text = p[min(len(p), MaxBodyHead)-len(rest):]
	if !utf8.Valid(b.Text) {
		return nil, fmt.Errorf("%w: the text is not UTF-8", ErrBody)
	}
	return b, nil
}

// bodyString cuts a string from the front of what may hold the fields before
// the text.
func bodyString(p []byte, what string) (s string, rest []byte, err error) {
	i := bytes.IndexByte(p, 0)
	if i < 0 {
		return "", nil, fmt.Errorf("%w: the %s has no end in the %d bytes that may hold it", ErrBody, what, len(p))
	}
	if !utf8.Valid(p[:i]) {
		return "", nil, fmt.Errorf("%w: the %s is not UTF-8", ErrBody, what)
	}
	return string(p[:i]), p[i+1:], nil
}

// MaxFileName is the longest name of an attachment, in bytes.
const MaxFileName = 4096

// CutFileName returns the file name that begins an attachment's plaintext and
// how many bytes it takes there, its NUL included. The name is a claim: it may
// be any UTF-8 without a NUL, a path or an escape sequence too.
func CutFileName(p []byte) (name string, n int, err error) {
	i := bytes.IndexByte(p[:min(len(p), MaxFileName+1)], 0)
	if i < 0 {
		return "", 0, fmt.Errorf("%w: an attachment's file name has no end within %d bytes", ErrBody, MaxFileName+1)
	}
	if !utf8.Valid(p[:i]) {
		return "", 0, fmt.Errorf("%w: an attachment's file name is not UTF-8", ErrBody)
	}
	return string(p[:i]), i + 1, nil
}
