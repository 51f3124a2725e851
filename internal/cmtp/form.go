package cmtp

import (
	"encoding/binary"
	"fmt"
	"io"

	"cmtpd/internal/crypt"
)

// ReadForm reads what follows REGISTER, UPLOAD, FLAG and DELETE (docs/protocol.md section 16.1) and
// not a byte behind it. After ErrTooLarge nothing of the form was read; the stream is
// not in step.
func ReadForm(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("reading a form: %w", cut(err))
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxForm {
		return nil, fmt.Errorf("%w: a form of %d bytes, at most %d are allowed", ErrTooLarge, n, MaxForm)
	}
	form, err := readGrowing(r, uint64(n))
	if err != nil {
		return nil, fmt.Errorf("reading a form: %w", err)
	}
	return form, nil
}

// AppendForm appends a form as ReadForm reads it. It must be no longer than MaxForm,
// as those within their own bounds are.
func AppendForm(dst, form []byte) []byte { return appendBlock(dst, form) }

// A RegisterForm is what REGISTER sends (docs/protocol.md section 19.4).
type RegisterForm struct {
	Statement  crypt.KeyStatement
	Possession crypt.Signature // by the statement's key; not checked here
	Xzibit     []byte          // 1 to MaxXzibit bytes
	Copy       []byte          // the recovery copy; at most MaxXzibit bytes, empty when there is none
}

// ParseRegisterForm takes a form apart. The slices are parts of b. The error wraps
// ErrForm, and crypt.ErrStatement too where it is the statement that breaks the rules.
func ParseRegisterForm(b []byte) (*RegisterForm, error) {
	p := formParser{rest: b}
	f := &RegisterForm{}
	p.statement(&f.Statement)
	if p.signature() != (crypt.Signature{}) {
		p.refuse("a signature stands where only zeros may")
	}
	f.Possession = p.signature()
	f.Xzibit, f.Copy = p.secrets()
	if p.err != nil {
		return nil, p.err
	}
	return f, nil
}

// Append appends the form, without its length.
func (f *RegisterForm) Append(dst []byte) []byte {
	dst = f.Statement.Append(dst)
	dst = append(dst, make([]byte, crypt.SignatureSize)...) // neither a first statement nor a reset is signed by a key before
	dst = append(dst, f.Possession[:]...)
	return appendBlock(appendBlock(dst, f.Xzibit), f.Copy)
}

// An UploadForm is what UPLOAD sends (docs/protocol.md section 19.5).
type UploadForm struct {
	Replaces     [32]byte            // SHA-256 of the xzibit that is replaced
	Statement    *crypt.KeyStatement // of a new key; nil when there is none
	OldSignature crypt.Signature     // of the statement, by the key before; not checked here
	Possession   crypt.Signature     // by the statement's key; not checked here
	Xzibit       []byte              // 1 to MaxXzibit bytes
	Copy         []byte              // the recovery copy; at most MaxXzibit bytes, empty when there is none
}

// ParseUploadForm takes a form apart, as ParseRegisterForm does.
func ParseUploadForm(b []byte) (*UploadForm, error) {
	p := formParser{rest: b}
	f := &UploadForm{}
	copy(f.Replaces[:], p.take(len(f.Replaces), "a digest"))
	if flag := p.take(1, "a flag"); p.err == nil {
		switch flag[0] {
		case 0:
		case 1:
			f.Statement = &crypt.KeyStatement{}
			p.statement(f.Statement)
			f.OldSignature, f.Possession = p.signature(), p.signature()
		default:
			p.refuse("the flag of a key is %d", flag[0])
		}
	}
	f.Xzibit, f.Copy = p.secrets()
	if p.err != nil {
		return nil, p.err
	}
	return f, nil
}

// Append appends the form, without its length. Without a Statement there are no
// signatures.
func (f *UploadForm) Append(dst []byte) []byte {
	dst = append(dst, f.Replaces[:]...)
	if f.Statement == nil {
		dst = append(dst, 0)
	} else {
		dst = f.Statement.Append(append(dst, 1))
		dst = append(append(dst, f.OldSignature[:]...), f.Possession[:]...)
	}
	return appendBlock(appendBlock(dst, f.Xzibit), f.Copy)
}

// appendBlock appends b behind its length.
func appendBlock(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// A formParser cuts fields off the front of a form. After the first that is wrong
// err says why, and all that follow are empty.
type formParser struct {
	rest []byte
	err  error
}

func (p *formParser) refuse(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s", ErrForm, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes, nil when there are fewer.
func (p *formParser) take(n int, what string) []byte {
	if p.err == nil && len(p.rest) < n {
		p.refuse("it ends within %s", what)
	}
	if p.err != nil {
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *formParser) signature() (sig crypt.Signature) {
	copy(sig[:], p.take(len(sig), "a signature"))
	return sig
}

// statement reads the key statement that comes next. It tells its own length.
func (p *formParser) statement(s *crypt.KeyStatement) {
	if p.err != nil {
		return
	}
	var n int
	if *s, n, p.err = crypt.ParseKeyStatement(p.rest); p.err != nil {
		p.err = fmt.Errorf("%w: %w", ErrForm, p.err)
		return
	}
	p.rest = p.rest[n:]
}

// secrets returns the xzibit and the recovery copy, with which every form ends.
func (p *formParser) secrets() (xzibit, recovery []byte) {
	if xzibit = p.block("a xzibit"); len(xzibit) == 0 {
		p.refuse("it has no xzibit")
	}
	recovery = p.block("a recovery copy")
	if len(p.rest) > 0 {
		p.refuse("%d bytes stand behind its end", len(p.rest))
	}
	return xzibit, recovery
}

// block returns what stands behind its length.
func (p *formParser) block(what string) []byte {
	head := p.take(4, "a length")
	if head == nil {
		return nil
	}
	n := binary.BigEndian.Uint32(head)
	if n > MaxXzibit {
		p.refuse("%s of %d bytes, at most %d are allowed", what, n, MaxXzibit)
		return nil
	}
	return p.take(int(n), what)
}
