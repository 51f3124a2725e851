package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"cmtpd/internal/cmtp"
)

var sentinel = []byte("NOOP\x00KEYREQUEST\x00")

func TestMessageReader_Segmentation(t *testing.T) {
	for name, segment := range segmentations {
		t.Run(name, func(t *testing.T) {
			for _, s := range []sample{sealed(), plain(""), plain("text", nil, []byte("x"), nil)} {
				want := s.bytes()
				src := &source{Reader: segment(bytes.NewReader(append(s.bytes(), sentinel...)))}
				got, sum, err := read(src, uint64(len(want)))
				if err != nil || !bytes.Equal(got, want) || sum != s.core() {
					t.Fatalf("yields %x, digest %x, %v", got, sum, err)
				}
				if src.taken != len(want) {
					t.Errorf("took %d bytes of a message of %d", src.taken, len(want))
				}
				if rest, err := io.ReadAll(src); err != nil || !bytes.Equal(rest, sentinel) {
					t.Errorf("%q, %v is left, want %q", rest, err, sentinel)
				}
			}
		})
	}
}

// Read keeps the io.Reader contract whatever the buffer that it is given.
func TestMessageReader_Read(t *testing.T) {
	want := sealed().bytes()
	m, err := cmtp.NewMessageReader(bytes.NewReader(want), uint64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := m.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil) in the beginning: %d, %v", n, err)
	}
	if err := iotest.TestReader(m, want); err != nil {
		t.Error(err)
	}
	if n, err := m.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read behind the end: %d, %v", n, err)
	}
}

func TestMessageReader_Cut(t *testing.T) {
	for name, segment := range segmentations {
		t.Run(name, func(t *testing.T) {
			for _, s := range []sample{sealed(), plain("text", nil)} {
				whole := s.bytes()
				for n := range whole {
					got, _, err := read(&source{Reader: segment(bytes.NewReader(whole[:n]))}, 1<<20)
					if !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Fatalf("cut after %d of %d bytes: %v", n, len(whole), err)
					}
					if !bytes.HasPrefix(whole, got) {
						t.Fatalf("cut after %d bytes, yields others: %x", n, got)
					}
				}
			}
		})
	}
}

// A byte that is changed, lost or added ends in an error, in another digest or in
// bytes left over; only in the log, which no digest covers, may a byte change.
func TestMessageReader_Damage(t *testing.T) {
	s := sealed()
	whole, want := s.bytes(), s.core()
	logStart := len(s.head())
	logEnd := logStart + len(s.log)
	noticed := func(t *testing.T, damaged []byte) bool {
		src := &source{Reader: bytes.NewReader(damaged)}
		got, sum, err := read(src, 1<<20)
		if err == nil && !bytes.Equal(got, damaged[:src.taken]) {
			t.Fatalf("yields %x of %x", got, damaged)
		}
		return err != nil || sum != want || src.taken < len(damaged)
	}
	for i := range whole {
		for _, bit := range []byte{1, 0x20, 0x80} {
			changed := bytes.Clone(whole)
			changed[i] ^= bit
			if !noticed(t, changed) && (i < logStart || i >= logEnd) {
				t.Errorf("byte %d of %d was changed by %#x unnoticed", i, len(whole), bit)
			}
		}
		lost := append(bytes.Clone(whole[:i]), whole[i+1:]...)
		if !noticed(t, lost) {
			t.Errorf("byte %d of %d was lost unnoticed", i, len(whole))
		}
		// The same with more behind it: the next command fills the gap.
		if _, sum, err := read(bytes.NewReader(append(lost, sentinel...)), 1<<20); err == nil && sum == want {
			t.Errorf("byte %d of %d was lost and made good by what follows", i, len(whole))
		}
		for _, c := range []byte{0, 'A', 0xff} {
			if !noticed(t, append(append(bytes.Clone(whole[:i]), c), whole[i:]...)) {
				t.Errorf("%#x before byte %d of %d was added unnoticed", c, i, len(whole))
			}
		}
	}
}

func TestMessageReader_Limit(t *testing.T) {
	s := sealed()
	whole := s.bytes()
	least := len(s.head()) + len(s.log) + len(s.body) + 2*(8+cmtp.SealOverhead)
	for _, c := range []struct {
		name  string
		limit int
		taken int // bytes of the source that are read for the refusal
	}{
		{"Header", least - 1, len(s.head())},
		{"Zero", 0, len(s.head())},
		// The attachments' excess is known only when their lengths are there.
		{"Attachment", len(whole) - 1, len(whole) - len(s.attachments[1])},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := &source{Reader: bytes.NewReader(whole)}
			got, _, err := read(src, uint64(c.limit))
			if !errors.Is(err, cmtp.ErrTooLarge) {
				t.Errorf("the error is %v, want ErrTooLarge", err)
			}
			if src.taken != c.taken {
				t.Errorf("%d bytes were taken, want %d", src.taken, c.taken)
			}
			if len(got) > c.limit {
				t.Errorf("%d bytes were yielded, the limit is %d", len(got), c.limit)
			}
		})
	}
	t.Run("Exact", func(t *testing.T) {
		if got, _, err := read(bytes.NewReader(whole), uint64(len(whole))); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("yields %x, %v", got, err)
		}
	})
}

// An attachment shorter than promised by the others' least must not lend its
// length: the sum counts, whatever the order.
func TestMessageReader_LimitOverAttachments(t *testing.T) {
	for _, s := range []sample{
		plain("b", counted(100, 1), nil, counted(50, 1)),
		{system: 1, names: envelope, body: counted(48, 1), attachments: [][]byte{counted(48, 1), counted(148, 1), counted(49, 1)}},
	} {
		whole := s.bytes()
		if _, _, err := read(bytes.NewReader(whole), uint64(len(whole))); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		if _, _, err := read(bytes.NewReader(whole), uint64(len(whole)-1)); !errors.Is(err, cmtp.ErrTooLarge) {
			t.Errorf("one past the limit: %v", err)
		}
	}
}

func TestNewMessageReader_Refusals(t *testing.T) {
	const most = math.MaxUint64
	names := envelope[:]
	own := uint64(len(head(0, 0, 0, 0, names...)))
	for _, c := range []struct {
		name   string
		header []byte
		limit  uint64
		want   error // io.ErrUnexpectedEOF: the header is fine
	}{
		{"LogOverflows", head(0, 0, most, 0, names...), most, cmtp.ErrTooLarge},
		{"LogOfLimit", head(0, 0, cmtp.MaxLog, 0, names...), most, io.ErrUnexpectedEOF},
		{"LogPastLimit", head(0, 0, cmtp.MaxLog+1, 0, names...), most, cmtp.ErrTooLarge},
		{"BodyOverflows", head(1, 0, 1, most, names...), most, cmtp.ErrTooLarge},
		{"BodyIsAllThereIs", head(1, 0, 0, most-own, names...), most, io.ErrUnexpectedEOF},
		{"BodyOneMore", head(1, 0, 0, most-own+1, names...), most, cmtp.ErrTooLarge},
		{"SumOverflowsByLog", head(1, 0, 1, most-own, names...), most, cmtp.ErrTooLarge},
		{"SumOverflowsByAttachment", head(0, 1, 0, most-own-7, names...), most, cmtp.ErrTooLarge},
		{"SignedOverflow", head(1, 0, 1, 1<<63, names...), math.MaxInt64, cmtp.ErrTooLarge},
		{"CountPastEverything", head(0, math.MaxUint32, 1, 0, names...), most, cmtp.ErrTooLarge},
		{"CountOfLimit", head(0, cmtp.MaxAttachments, 1, 0, names...), most, io.ErrUnexpectedEOF},
		{"CountPastLimit", head(0, cmtp.MaxAttachments+1, 1, 0, names...), most, cmtp.ErrTooLarge},
		{"CountPastSize", head(0, 100, 1, 0, names...), own + 1 + 799, cmtp.ErrTooLarge},
		{"SealedCountPastSize", head(1, 10, 0, 48, names...), own + 48 + 559, cmtp.ErrTooLarge},
		{"System2", head(2, 0, 1, 48, names...), most, cmtp.ErrSystem},
		{"SystemMost", head(math.MaxUint32, 0, 1, 48, names...), most, cmtp.ErrSystem},
		{"SealedBody48", head(1, 0, 1, 48, names...), most, io.ErrUnexpectedEOF},
		{"SealedBody47", head(1, 0, 1, 47, names...), most, cmtp.ErrMessage},
		{"PlainBody0", head(0, 0, 1, 0, names...), most, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := &source{Reader: bytes.NewReader(c.header)}
			m, err := cmtp.NewMessageReader(src, c.limit)
			if c.want == io.ErrUnexpectedEOF {
				if err != nil {
					t.Fatalf("the header is refused: %v", err)
				}
				_, err = io.ReadAll(m)
			} else if m == nil {
				t.Fatal("no header is returned with the refusal")
			} else if n, again := m.Read(make([]byte, 8)); n != 0 || again != err {
				t.Errorf("a refused message can be read: %d, %v", n, again)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("the error is %v, want %v", err, c.want)
			}
			if m.Header().DestinationAccount != "alice" || m.Header().SourceDomain != "other.example" {
				t.Errorf("the header is %+v", m.Header())
			}
			if src.taken != len(c.header) {
				t.Errorf("%d bytes were taken of a header of %d", src.taken, len(c.header))
			}
		})
	}
}

func TestMessageReader_Attachments(t *testing.T) {
	for _, c := range []struct {
		name    string
		system  uint32
		length  uint64
		present int
		want    error
	}{
		{"Sealed48", 1, 48, 48, nil},
		{"Sealed47", 1, 47, 47, cmtp.ErrMessage},
		{"Sealed0", 1, 0, 0, cmtp.ErrMessage},
		{"Plain0", 0, 0, 0, nil},
		{"Short", 0, 10, 9, io.ErrUnexpectedEOF},
		{"Overflow", 0, math.MaxUint64, 10, cmtp.ErrTooLarge},
		{"SealedOverflow", 1, math.MaxUint64, 48, cmtp.ErrTooLarge},
		{"Signed", 1, 1 << 63, 48, cmtp.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := append(head(c.system, 1, 1, 48, envelope[:]...), make([]byte, 1+48)...)
			before := len(m)
			m = append(binary.BigEndian.AppendUint64(m, c.length), make([]byte, c.present)...)
			got, _, err := read(bytes.NewReader(m), 1<<20)
			if !errors.Is(err, c.want) {
				t.Errorf("the error is %v, want %v", err, c.want)
			}
			if c.want == cmtp.ErrMessage || c.want == cmtp.ErrTooLarge {
				if len(got) != before {
					t.Errorf("%d bytes were yielded, want the %d before the attachment", len(got), before)
				}
			}
		})
	}
}

func TestMessageReader_MostAttachments(t *testing.T) {
	m := append(head(0, cmtp.MaxAttachments, 0, 0, envelope[:]...), make([]byte, 8*cmtp.MaxAttachments)...)
	got, _, err := read(bytes.NewReader(m), uint64(len(m)))
	if err != nil || !bytes.Equal(got, m) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(m), err)
	}
	if s := parse(t, m); len(s.attachments) != cmtp.MaxAttachments {
		t.Errorf("%d attachments", len(s.attachments))
	}
}

func TestMessageReader_Log(t *testing.T) {
	full := append(bytes.Repeat([]byte("x"), cmtp.MaxLog-1), 0)
	for _, c := range []struct {
		name, log string
		want      error
		entries   []string
	}{
		{"None", "", nil, nil},
		{"Empty", "\x00", nil, nil},
		{"One", "a\x00", nil, []string{"a"}},
		{"Two", "a\x00b\x00", nil, []string{"a", "b"}},
		{"EmptyEntries", "\x00\x00", nil, []string{"", ""}},
		{"Full", string(full), nil, []string{string(full[:len(full)-1])}},
		{"TooLong", "x" + string(full), cmtp.ErrTooLarge, nil},
		{"NoEnd", "a\x00b", cmtp.ErrMessage, nil},
		{"NotUTF8", "\xff\x00", cmtp.ErrMessage, nil},
		{"CutRune", "\xc3\x00", cmtp.ErrMessage, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := plain("text")
			s.log = []byte(c.log)
			got, _, err := read(bytes.NewReader(s.bytes()), 1<<20)
			if !errors.Is(err, c.want) {
				t.Fatalf("the error is %v, want %v", err, c.want)
			}
			if _, err := cmtp.ParseLayout(bytes.NewReader(s.bytes()), int64(len(s.bytes()))); !errors.Is(err, c.want) {
				t.Errorf("ParseLayout: %v, want %v", err, c.want)
			}
			if err != nil {
				if len(got) > len(s.head()) {
					t.Errorf("a part of the refused log was yielded: %q", got)
				}
				return
			}
			if e := cmtp.LogEntries(s.log); !reflect.DeepEqual(e, c.entries) {
				t.Errorf("the entries are %q, want %q", e, c.entries)
			}
		})
	}
}

func TestMessageReader_Names(t *testing.T) {
	longest := strings.Repeat("ü", 127) + "x"
	for i := range 4 {
		for _, c := range []struct {
			name, value string
			want        error
		}{
			{"Empty", "", nil},
			{"255", longest, nil},
			{"256", longest + "x", cmtp.ErrMessage},
			{"NotUTF8", "a\xffb", cmtp.ErrMessage},
			{"CutRune", "a\xc3", cmtp.ErrMessage},
			{"Controls", "\x1b[2J\n../..", nil}, // for package address to refuse
		} {
			t.Run(fmt.Sprint(i, c.name), func(t *testing.T) {
				s := sealed()
				s.names[i] = c.value
				src := &source{Reader: bytes.NewReader(s.bytes())}
				got, sum, err := read(src, 1<<20)
				if !errors.Is(err, c.want) {
					t.Fatalf("the error is %v, want %v", err, c.want)
				}
				if err == nil && (!bytes.Equal(got, s.bytes()) || sum != s.core()) {
					t.Error("the message does not come back as it was")
				}
				if err != nil && len(got) > 0 {
					t.Errorf("%q was yielded", got)
				}
				if _, err := cmtp.ParseLayout(bytes.NewReader(s.bytes()), int64(len(s.bytes()))); !errors.Is(err, c.want) {
					t.Errorf("ParseLayout: %v, want %v", err, c.want)
				}
			})
		}
	}
	t.Run("Endless", func(t *testing.T) {
		src := &source{Reader: io.MultiReader(bytes.NewReader(head(1, 0, 1, 48)), generator('u'))}
		if _, _, err := read(src, 1<<20); !errors.Is(err, cmtp.ErrMessage) {
			t.Errorf("the error is %v", err)
		}
		if src.taken != 24+cmtp.MaxString+1 {
			t.Errorf("%d bytes were taken", src.taken)
		}
	})
}

// A generator yields one byte for ever.
type generator byte

func (g generator) Read(p []byte) (int, error) {
	n := copy(p, []byte{byte(g)})
	for n < len(p) {
		n += copy(p[n:], p[:n])
	}
	return n, nil
}

func TestMessageReader_SourceErrors(t *testing.T) {
	broken := errors.New("the line is broken")
	whole := sealed().bytes()
	for n := range whole {
		src := &source{Reader: io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))}
		m, err := cmtp.NewMessageReader(src, 1<<20)
		if err == nil {
			_, err = io.ReadAll(m)
			if _, again := m.Read(make([]byte, 1)); again != err {
				t.Fatalf("the error %v is followed by %v", err, again)
			}
			if _, err := m.Digest(); !errors.Is(err, cmtp.ErrMessage) {
				t.Fatalf("a digest of half a message: %v", err)
			}
		}
		if !errors.Is(err, broken) {
			t.Fatalf("broken after %d bytes: %v", n, err)
		}
	}
	t.Run("WithTheLastByte", func(t *testing.T) {
		src := &source{Reader: &lastly{whole, broken}}
		if got, _, err := read(src, 1<<20); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("a whole message fails by what is behind it: %v", err)
		}
	})
}

// lastly returns err together with the last of its bytes.
type lastly struct {
	b   []byte
	err error
}

func (l *lastly) Read(p []byte) (n int, err error) {
	n = copy(p, l.b)
	if l.b = l.b[n:]; len(l.b) == 0 {
		err = l.err
	}
	return n, err
}

func TestMessageReader_Digest(t *testing.T) {
	digest := func(s sample) [32]byte {
		t.Helper()
		_, sum, err := read(bytes.NewReader(s.bytes()), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if sum != s.core() {
			t.Errorf("the digest is %x, want %x", sum, s.core())
		}
		return sum
	}
	base := digest(sealed())
	for name, change := range map[string]func(*sample){
		"Log": func(s *sample) { s.log = []byte("received by=relay\x00") }, "NoLog": func(s *sample) { s.log = nil },
	} {
		s := sealed()
		if change(&s); digest(s) != base {
			t.Errorf("%s: a log changes the digest", name)
		}
	}
	for name, change := range map[string]func(*sample){
		"System":          func(s *sample) { s.system = cmtp.SystemPlain },
		"Body":            func(s *sample) { s.body[5]++ },
		"BodyLength":      func(s *sample) { s.body = append(s.body, 0) },
		"Attachment":      func(s *sample) { s.attachments[1][7]++ },
		"Order":           func(s *sample) { s.attachments[0], s.attachments[1] = s.attachments[1], s.attachments[0] },
		"FewerAttachment": func(s *sample) { s.attachments = s.attachments[:1] },
		"Name":            func(s *sample) { s.names[2] = "Bob" },
		"NamesShift":      func(s *sample) { s.names[0], s.names[1] = "alicec", "ref.example" },
	} {
		s := sealed()
		if change(&s); digest(s) == base {
			t.Errorf("%s: the digest does not change", name)
		}
	}
	m, err := cmtp.NewMessageReader(bytes.NewReader(sealed().bytes()), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := m.Digest(); !errors.Is(err, cmtp.ErrMessage) || sum != [32]byte{} {
		t.Errorf("before the end: %x, %v", sum, err)
	}
	if _, err := io.ReadAll(m); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if sum, err := m.Digest(); err != nil || sum != base {
			t.Errorf("at the end: %x, %v", sum, err)
		}
	}
}

func TestMessageReader_Memory(t *testing.T) {
	const half = 128 << 20
	src := &source{Reader: io.MultiReader(
		bytes.NewReader(append(head(1, 1, 1, half, envelope[:]...), 0)),
		io.LimitReader(generator('b'), half),
		bytes.NewReader(binary.BigEndian.AppendUint64(nil, half)),
		io.LimitReader(generator('a'), half),
		bytes.NewReader(sentinel),
	)}
	buf := make([]byte, 64<<10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := cmtp.NewMessageReader(src, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for err == nil {
		var n int
		n, err = m.Read(buf)
		total += n
	}
	runtime.ReadMemStats(&after)
	if want := len(head(1, 1, 1, half, envelope[:]...)) + 1 + 8 + 2*half; err != io.EOF || total != want || src.taken != want {
		t.Errorf("%d bytes were yielded and %d taken, want %d; %v", total, src.taken, want, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<10 {
		t.Errorf("a message of %d bytes allocates %d", total, used)
	}
}
