package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// tableRows are the rows of the document's table of statuses.
var tableRows = regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`)

// Constants, meanings and the document's table are one registry.
func TestStatus_Document(t *testing.T) {
	doc := map[cmtp.Status]string{}
	for _, m := range tableRows.FindAllStringSubmatch(document(t, "### 16.3 ", "A message is refused with"), -1) {
		n, err := strconv.ParseUint(m[1], 10, 16)
		if err != nil || doc[cmtp.Status(n)] != "" {
			t.Fatalf("%s: %v", m[0], err)
		}
		doc[cmtp.Status(n)] = m[2]
	}
	for n := range math.MaxUint16 + 1 {
		want, ok := doc[cmtp.Status(n)]
		if !ok {
			want = fmt.Sprintf("status %d", n)
		}
		if got := cmtp.Status(n).String(); got != want {
			t.Errorf("%d means %q, in the document %q", n, got, want)
		}
	}
	src, err := os.ReadFile("status.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := regexp.MustCompile(`(?m)^\tStatus\w+ +Status = (\d+)$`).FindAllSubmatch(src, -1)
	for _, m := range constants {
		n, _ := strconv.Atoi(string(m[1]))
		if doc[cmtp.Status(n)] == "" {
			t.Errorf("the document does not know %s", m[1])
		}
	}
	if len(constants) != len(doc) || len(doc) < 20 {
		t.Errorf("%d constants, %d statuses in the document", len(constants), len(doc))
	}
}

func TestStatus_Classes(t *testing.T) {
	for s, want := range map[cmtp.Status][2]bool{
		200: {true, false}, 202: {true, false}, 299: {true, false}, 421: {false, true}, 499: {false, true}, 400: {false, true},
		500: {}, 563: {}, 599: {}, 199: {}, 300: {}, 399: {}, 2000: {}, 0: {}, 20: {}, 4210: {}, 1400: {}, 1200: {},
	} {
		if got := [2]bool{s.Done(), s.Temporary()}; got != want {
			t.Errorf("%d: done and temporary are %v", s, got)
		}
		if (&cmtp.StatusError{Status: s}).Temporary() != want[1] {
			t.Errorf("the error of %d is temporary: %v", s, !want[1])
		}
	}
}

// The reason is the server's: a person sees it escaped.
func TestStatusError_Error(t *testing.T) {
	err := &cmtp.StatusError{Status: cmtp.StatusTooOften, Reason: "wait\u202e \"now\""}
	want := `the server answered 450 (too many attempts; the reason says when to try again): "wait\u202e \"now\""`
	if err.Error() != want {
		t.Errorf("%s, want %s", err, want)
	}
	if got := (&cmtp.StatusError{Status: 599}).Error(); got != `the server answered 599 (status 599): ""` {
		t.Error(got)
	}
}

func TestAppendFailure(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"Plain":        {"no", "no"},
		"None":         {"", ""},
		"Controls":     {"a\x00b\r\nc\x7fd\u0085e\x1b", "a b  c d e "},
		"NotUTF8":      {"a\xffb", "a\ufffdb"},
		"Longest":      {strings.Repeat("r", 1023), strings.Repeat("r", 1023)},
		"TooLong":      {strings.Repeat("r", 1024), strings.Repeat("r", 1023)},
		"CutsNoRune":   {strings.Repeat("r", 1022) + "é!", strings.Repeat("r", 1022)},
		"RuneFits":     {strings.Repeat("r", 1021) + "é!", strings.Repeat("r", 1021) + "é"},
		"FarTooLong":   {strings.Repeat("\u20ac", 1000), strings.Repeat("\u20ac", 341)},
		"GrowsByThree": {strings.Repeat("\xff", 1000), strings.Repeat("\ufffd", 341)},
	} {
		t.Run(name, func(t *testing.T) {
			b := cmtp.AppendFailure([]byte("before"), cmtp.StatusTrouble, c.in)
			status, payload, err := cmtp.ReadReply(bytes.NewReader(b[len("before"):]), 0)
			var failure *cmtp.StatusError
			if !errors.As(err, &failure) || status != cmtp.StatusTrouble || failure.Status != status || payload != nil {
				t.Fatalf("%d, %q, %v", status, payload, err)
			}
			if failure.Reason != c.want || !utf8.ValidString(c.want) || len(c.want) > cmtp.MaxReason {
				t.Errorf("the reason is %q, want %q", failure.Reason, c.want)
			}
			if len(b) != len("before")+10+len(c.want) {
				t.Errorf("the reply has %d bytes", len(b))
			}
		})
	}
}

// replyOf is a reply with any status, length and payload.
func replyOf(status uint16, n uint64, payload string) []byte {
	return append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(nil, status), n), payload...)
}

func TestReadReply_Refusals(t *testing.T) {
	const limit = 100
	for name, c := range map[string]struct {
		reply []byte
		want  error
		taken int
	}{
		"AtLimit":         {replyOf(200, limit, strings.Repeat("p", limit)), nil, 10 + limit},
		"UnknownDone":     {replyOf(299, 1, "p"), nil, 11},
		"PastLimit":       {replyOf(200, limit+1, ""), cmtp.ErrTooLarge, 10},
		"LargestPayload":  {replyOf(202, math.MaxUint64, ""), cmtp.ErrTooLarge, 10},
		"ReasonPastLimit": {replyOf(550, cmtp.MaxReason+1, ""), cmtp.ErrReply, 10},
		"LargestReason":   {replyOf(450, math.MaxUint64, ""), cmtp.ErrReply, 10},
		"Status0":         {replyOf(0, 0, ""), cmtp.ErrReply, 10},
		"Status199":       {replyOf(199, 0, ""), cmtp.ErrReply, 10},
		"Status300":       {replyOf(300, 0, ""), cmtp.ErrReply, 10},
		"Status399":       {replyOf(399, 0, ""), cmtp.ErrReply, 10},
		"Status600":       {replyOf(600, 0, ""), cmtp.ErrReply, 10},
		"Status2000":      {replyOf(2000, 0, ""), cmtp.ErrReply, 10},
		"Status40":        {replyOf(40, 0, ""), cmtp.ErrReply, 10},
		"Part1":           {[]byte("FAILURE" + strings.Repeat("s", 65)), cmtp.ErrReply, 10},
		"ReasonNotUTF8":   {replyOf(550, 2, "a\xff"), cmtp.ErrReply, 12},
		"ReasonWithNUL":   {replyOf(550, 2, "a\x00"), cmtp.ErrReply, 12},
		"ReasonWithLF":    {replyOf(450, 2, "a\n"), cmtp.ErrReply, 12},
		"ReasonWithC1":    {replyOf(450, 2, "\u009b"), cmtp.ErrReply, 12},
		"ReasonWithDEL":   {replyOf(450, 1, "\x7f"), cmtp.ErrReply, 11},
	} {
		t.Run(name, func(t *testing.T) {
			src := &source{Reader: io.MultiReader(bytes.NewReader(c.reply), generator(0))}
			status, payload, err := cmtp.ReadReply(src, limit)
			var failure *cmtp.StatusError
			if !errors.Is(err, c.want) || errors.As(err, &failure) {
				t.Errorf("the error is %v, want %v", err, c.want)
			}
			if err != nil && (status != 0 || payload != nil) {
				t.Errorf("%d and %q come with the error", status, payload)
			}
			if src.taken != c.taken {
				t.Errorf("%d bytes were taken, want %d", src.taken, c.taken)
			}
		})
	}
}

func TestReadReply_Cut(t *testing.T) {
	broken := errors.New("the line is broken")
	for _, reply := range [][]byte{cmtp.AppendReply(nil, cmtp.StatusDone, counted(9000, 3)), cmtp.AppendFailure(nil, cmtp.StatusNoRoom, "full")} {
		for n := 0; n < len(reply); n += 1 + n/20 {
			status, payload, err := cmtp.ReadReply(bytes.NewReader(reply[:n]), 1<<20)
			if !errors.Is(err, io.ErrUnexpectedEOF) || status != 0 || payload != nil {
				t.Errorf("cut after %d of %d bytes: %d, %x, %v", n, len(reply), status, payload, err)
			}
			src := io.MultiReader(bytes.NewReader(reply[:n]), iotest.ErrReader(broken))
			if _, _, err := cmtp.ReadReply(src, 1<<20); !errors.Is(err, broken) {
				t.Errorf("broken after %d of %d bytes: %v", n, len(reply), err)
			}
		}
	}
}

// A length costs nothing: memory follows what has come.
func TestReadReply_Memory(t *testing.T) {
	head := replyOf(200, 1<<40, "few bytes")
	cmtptest.Bounded(t, 64<<10, func() {
		if _, _, err := cmtp.ReadReply(bytes.NewReader(head), 1<<50); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
	payload := counted(1<<20, 7)
	reply := cmtp.AppendReply(nil, cmtp.StatusDone, payload)
	cmtptest.Bounded(t, 5<<20, func() {
		if _, got, err := cmtp.ReadReply(bytes.NewReader(reply), 1<<20); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// FuzzReply: a reply that is accepted encodes again identically, not a byte behind it
// is taken, and the verdict does not depend on the segmentation.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, limit uint64) {
		read := func(r io.Reader) (again []byte, err error) {
			status, payload, err := cmtp.ReadReply(r, limit)
			var failure *cmtp.StatusError
			switch {
			case errors.As(err, &failure):
				if failure.Status != status || status.Done() || payload != nil || len(failure.Reason) > cmtp.MaxReason {
					t.Fatalf("%d with %v and %q", status, failure, payload)
				}
				return cmtp.AppendFailure(nil, status, failure.Reason), nil
			case err != nil:
				return nil, err
			case !status.Done() || uint64(len(payload)) > limit:
				t.Fatalf("%d with %d bytes under a limit of %d", status, len(payload), limit)
			}
			return cmtp.AppendReply(nil, status, payload), nil
		}
		src := &source{Reader: bytes.NewReader(in)}
		var again []byte
		var err error
		cmtptest.Bounded(t, 64<<10+8*uint64(len(in)), func() { again, err = read(src) })
		other := &source{Reader: iotest.OneByteReader(bytes.NewReader(in))}
		again2, err2 := read(other)
		if verdict(t, err2) != verdict(t, err) || other.taken != src.taken || !bytes.Equal(again2, again) {
			t.Fatalf("%d bytes, %v; one at a time %d bytes, %v", src.taken, err, other.taken, err2)
		}
		if err == nil && !bytes.Equal(again, in[:src.taken]) {
			t.Fatalf("%x encodes again to %x", in[:src.taken], again)
		}
	})
}
