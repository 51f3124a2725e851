package cmtp_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
)

func TestParseLayout_Size(t *testing.T) {
	for _, s := range []sample{sealed(), plain(""), plain("text", nil, []byte("x")), plain("text", []byte("x"), nil)} {
		whole := s.bytes()
		// What stands around a message in a larger file is none of its own.
		file := bytes.NewReader(append(append([]byte(nil), whole...), sealed().bytes()...))
		for size := range int64(file.Len()) {
			l, err := cmtp.ParseLayout(file, size)
			switch {
			case size == int64(len(whole)):
				if err != nil {
					t.Fatal(err)
				}
				if got := section(t, file, l.Body); !bytes.Equal(got, s.body) {
					t.Errorf("the body is %x", got)
				}
			case !errors.Is(err, cmtp.ErrMessage) && !errors.Is(err, io.ErrUnexpectedEOF):
				t.Errorf("a message of %d bytes in %d: %v", len(whole), size, err)
			}
		}
	}
	if _, err := cmtp.ParseLayout(bytes.NewReader(nil), -1); !errors.Is(err, cmtp.ErrMessage) {
		t.Errorf("a size of -1: %v", err)
	}
}

// A readerAt may say that its end was reached with the bytes that end there, and
// one that was cut gives fewer.
type readerAt struct {
	*bytes.Reader
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	if off+int64(n) == r.Size() {
		err = io.EOF
	}
	return n, err
}

func TestParseLayout_EOFWithTheLastBytes(t *testing.T) {
	whole := plain("text", nil).bytes()
	if _, err := cmtp.ParseLayout(readerAt{bytes.NewReader(whole)}, int64(len(whole))); err != nil {
		t.Error(err)
	}
	for n := range whole {
		if _, err := cmtp.ParseLayout(readerAt{bytes.NewReader(whole[:n])}, int64(len(whole))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes that are said to be %d: %v", n, len(whole), err)
		}
	}
}

// sparse is a file with bytes at some offsets and zeros elsewhere.
type sparse map[int64][]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, b := range s {
		if at >= off && at < off+int64(len(p)) {
			copy(p[at-off:], b)
		} else if at < off && at+int64(len(b)) > off {
			copy(p, b[off-at:])
		}
	}
	return len(p), nil
}

// Extents hold to the last byte that an int64 can count.
func TestParseLayout_Huge(t *testing.T) {
	const size = math.MaxInt64
	own := int64(len(head(1, 2, 1, 0, envelope[:]...))) + 1
	const first, second = 1 << 40, 48
	body := size - own - 8 - first - 8 - second
	at := own + body
	file := sparse{
		0:              head(1, 2, 1, uint64(body), envelope[:]...),
		at:             binary.BigEndian.AppendUint64(nil, first),
		at + 8 + first: binary.BigEndian.AppendUint64(nil, second),
	}
	l, err := cmtp.ParseLayout(file, size)
	if err != nil {
		t.Fatal(err)
	}
	if want := (cmtp.Extent{Offset: own, Length: body}); l.Body != want {
		t.Errorf("the body is at %+v, want %+v", l.Body, want)
	}
	if want := (cmtp.Extent{Offset: at + 16 + first, Length: second}); l.Attachments[1] != want {
		t.Errorf("the last attachment is at %+v, want %+v", l.Attachments[1], want)
	}
	for name, c := range map[string]struct {
		first uint64
		want  error
	}{
		"EndsInTheNextLength": {first + 48 + 1, cmtp.ErrMessage},
		"EndsBehind":          {math.MaxInt64, cmtp.ErrMessage},
		"Overflows":           {math.MaxUint64, cmtp.ErrMessage},
		"TooShort":            {47, cmtp.ErrMessage},
	} {
		file[at] = binary.BigEndian.AppendUint64(nil, c.first)
		if l, err := cmtp.ParseLayout(file, size); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	for name, c := range map[string]struct {
		header []byte
		want   error
	}{
		"BodyPastInt64":  {head(1, 0, 1, 1<<63, envelope[:]...), cmtp.ErrTooLarge},
		"BodyPastUint64": {head(1, 0, 1, math.MaxUint64, envelope[:]...), cmtp.ErrTooLarge},
		"BodyPastSize":   {head(1, 0, 1, uint64(size-own+1), envelope[:]...), cmtp.ErrTooLarge},
		"System2":        {head(2, 0, 1, 48, envelope[:]...), cmtp.ErrSystem},
		"Count":          {head(0, cmtp.MaxAttachments+1, 1, 0, envelope[:]...), cmtp.ErrTooLarge},
		"SealedBody47":   {head(1, 0, 1, 47, envelope[:]...), cmtp.ErrMessage},
	} {
		if l, err := cmtp.ParseLayout(sparse{0: c.header}, size); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// Lengths that are negative as an int64 lead nowhere, neither back into the
// message nor out of it into its neighbour's bytes and back.
func TestParseLayout_Backwards(t *testing.T) {
	u64 := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	own := head(0, 2, 0, 8, envelope[:]...)
	size := int64(len(own)) + 8 + 2*8
	inside := bytes.Join([][]byte{own, u64(size - int64(len(own)) - 8), u64(-16), u64(0)}, nil)
	outside := bytes.Join([][]byte{own, u64(0), u64(8), u64(0), u64(-8)}, nil)
	for name, file := range map[string][]byte{"Inside": inside, "Outside": outside} {
		if l, err := cmtp.ParseLayout(bytes.NewReader(file), size); !errors.Is(err, cmtp.ErrMessage) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// A part is a Part of which writes and size need not agree.
type part struct {
	content []byte
	size    func() int64
}

func (p part) Size() int64 { return p.size() }

func (p part) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p.content)
	return int64(n), err
}

func honest(b []byte) part { return part{b, func() int64 { return int64(len(b)) }} }

func header(s sample) cmtp.Header {
	return cmtp.Header{
		System: s.system, DestinationAccount: s.names[0], DestinationDomain: s.names[1],
		SourceAccount: s.names[2], SourceDomain: s.names[3],
	}
}

func write(w io.Writer, s sample) error {
	var attachments []cmtp.Part
	for _, a := range s.attachments {
		attachments = append(attachments, honest(a))
	}
	return cmtp.WriteMessage(w, header(s), s.log, honest(s.body), attachments)
}

func TestWriteMessage_RoundTrip(t *testing.T) {
	longest := strings.Repeat("x", cmtp.MaxString)
	for _, s := range []sample{
		sealed(), plain(""), plain("text", nil, []byte("x")),
		{names: [4]string{longest, longest, longest, longest}, log: append(counted(0, 0), strings.Repeat("l", cmtp.MaxLog-1)+"\x00"...)},
	} {
		var out bytes.Buffer
		if err := write(&out, s); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), s.bytes()) {
			t.Errorf("writes %x, want %x", out.Bytes(), s.bytes())
		}
		got, sum, err := read(bytes.NewReader(out.Bytes()), uint64(out.Len()))
		if err != nil || !bytes.Equal(got, s.bytes()) || sum != s.core() {
			t.Errorf("reads back %x, %v", got, err)
		}
		var attachments []cmtp.Part
		for _, a := range s.attachments {
			attachments = append(attachments, honest(a))
		}
		out.Reset()
		sum, err = cmtp.WriteDigested(&out, header(s), s.log, honest(s.body), attachments)
		if err != nil || !bytes.Equal(out.Bytes(), s.bytes()) || sum != s.core() {
			t.Errorf("WriteDigested writes %x with the digest %x, %v", out.Bytes(), sum, err)
		}
		sums := []cmtp.Sum{}
		for _, a := range s.attachments {
			sums = append(sums, cmtp.Sum{Length: int64(len(a)), SHA256: sha256.Sum256(a)})
		}
		if got := cmtp.CoreDigest(header(s), cmtp.Sum{Length: int64(len(s.body)), SHA256: sha256.Sum256(s.body)}, sums); got != sum {
			t.Errorf("CoreDigest is %x, want %x", got, sum)
		}
		if n := cmtp.MessageSize(header(s), s.log, honest(s.body), attachments); n != int64(out.Len()) {
			t.Errorf("MessageSize is %d of %d bytes", n, out.Len())
		}
	}
	none := plain("text")
	none.log = nil
	var out bytes.Buffer
	if err := write(&out, none); err != nil || !bytes.Equal(out.Bytes(), plain("text").bytes()) {
		t.Errorf("no log is written as %x, %v", out.Bytes(), err)
	}
	if n := cmtp.MessageSize(header(none), nil, honest(none.body), nil); n != int64(out.Len()) {
		t.Errorf("MessageSize without a log is %d of %d bytes", n, out.Len())
	}
}

func TestWriteMessage_Refusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*sample)
		want   error
	}{
		"NameWithNUL":       {func(s *sample) { s.names[0] = "alice\x00mallory.example" }, cmtp.ErrMessage},
		"NameTooLong":       {func(s *sample) { s.names[3] = strings.Repeat("x", cmtp.MaxString+1) }, cmtp.ErrMessage},
		"NameNotUTF8":       {func(s *sample) { s.names[2] = "\xff" }, cmtp.ErrMessage},
		"LogWithoutEnd":     {func(s *sample) { s.log = []byte("received") }, cmtp.ErrMessage},
		"LogNotUTF8":        {func(s *sample) { s.log = []byte("\xff\x00") }, cmtp.ErrMessage},
		"LogTooLong":        {func(s *sample) { s.log = make([]byte, cmtp.MaxLog+1) }, cmtp.ErrTooLarge},
		"System2":           {func(s *sample) { s.system = 2 }, cmtp.ErrSystem},
		"BodyNotSealed":     {func(s *sample) { s.body = s.body[:47] }, cmtp.ErrMessage},
		"AttachmentNotSeal": {func(s *sample) { s.attachments[1] = s.attachments[1][:47] }, cmtp.ErrMessage},
		"TooMany":           {func(s *sample) { s.attachments = make([][]byte, cmtp.MaxAttachments+1) }, cmtp.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			s := sealed()
			c.change(&s)
			var out bytes.Buffer
			if err := write(&out, s); !errors.Is(err, c.want) {
				t.Errorf("the error is %v, want %v", err, c.want)
			}
			if out.Len() > 0 {
				t.Errorf("%d bytes of a refused message were written", out.Len())
			}
		})
	}
}

func TestWriteMessage_LyingPart(t *testing.T) {
	b := counted(60, 1)
	sizes := func(sizes ...int64) func() int64 {
		return func() int64 {
			n := sizes[0]
			if len(sizes) > 1 {
				sizes = sizes[1:]
			}
			return n
		}
	}
	for name, size := range map[string]func() func() int64{
		"Less":     func() func() int64 { return sizes(61) },
		"More":     func() func() int64 { return sizes(59) },
		"Negative": func() func() int64 { return sizes(-60) },
		"Grows":    func() func() int64 { return sizes(50, 60) }, // a file that is appended to
	} {
		t.Run(name, func(t *testing.T) {
			lie := func() part { return part{b, size()} }
			err := cmtp.WriteMessage(io.Discard, header(sealed()), nil, lie(), nil)
			if !errors.Is(err, cmtp.ErrMessage) {
				t.Errorf("a lying body: %v", err)
			}
			err = cmtp.WriteMessage(io.Discard, header(sealed()), nil, honest(b), []cmtp.Part{honest(b), lie()})
			if !errors.Is(err, cmtp.ErrMessage) {
				t.Errorf("a lying attachment: %v", err)
			}
		})
	}
}

// A limited writer fails when it is full.
type limited struct{ room int }

var errFull = errors.New("full")

func (w *limited) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return w.room, errFull
	}
	w.room -= len(p)
	return len(p), nil
}

func TestWriteMessage_WriterFails(t *testing.T) {
	s := sealed()
	for n := range s.bytes() {
		if err := write(&limited{n}, s); !errors.Is(err, errFull) {
			t.Fatalf("room for %d bytes: %v", n, err)
		}
	}
	if err := write(&limited{len(s.bytes())}, s); err != nil {
		t.Error(err)
	}
}
