package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

const mailboxFile = "../../testdata/cmtp-1-mailbox.json"

// A mailboxVector is what stands on the wire for what means something: a query, an answer
// or a form. Value is that of the package's type, by its fields' names.
type mailboxVector struct {
	Name  string   `json:"name"`
	Value any      `json:"value,omitempty"`
	Wire  hexBytes `json:"wire"`
}

// wired joins fields: integers by their size, the rest as it is.
func wired(fields ...any) []byte {
	var b []byte
	for _, f := range fields {
		switch v := f.(type) {
		case string:
			b = append(append(b, v...), 0)
		case hexBytes:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, v)
		}
	}
	return b
}

// What the vectors are about.
var (
	epoch    = cmtp.Epoch(from(0xe0, 16))
	goneFrom = cmtp.Entry{Number: 0x2001, Change: 0x123400000003, Removed: true}
	whole    = cmtp.Entry{Number: 0x2006, Change: 0x123400000002, Arrived: 1720000000, Length: 123, SHA256: [32]byte(from(0x40, 32)),
		Standing: cmtp.StandingVouched, Flags: cmtp.FlagSeen | cmtp.FlagFlagged, Keywords: from(0xf1, 3), Header: &cmtp.Header{System: 1,
			LogLength: 1, BodyLength: 61, DestinationAccount: "alice", DestinationDomain: "cref.example", SourceAccount: "bob", SourceDomain: "other.example"}}
	broken = cmtp.Entry{Number: 0x1005, Change: 0x111100000000, Arrived: 1710000000, Length: 300, SHA256: [32]byte(from(0x80, 32))}
)

// mailboxVectors makes the vectors, without the codec.
func mailboxVectors() []mailboxVector {
	wholeWire := wired(byte(1), uint64(0x2006), uint64(0x123400000002), uint64(1720000000), uint64(123), from(0x40, 32), byte(2), uint32(5),
		byte(3), from(0xf1, 3), uint16(61), uint32(1), uint32(0), uint64(1), uint64(61), "alice", "cref.example", "bob", "other.example")
	brokenWire := wired(byte(1), uint64(0x1005), uint64(0x111100000000), uint64(1710000000), uint64(300), from(0x80, 32), byte(0), uint32(0),
		byte(0), uint16(0))
	goneWire := wired(byte(0), uint64(0x2001), uint64(0x123400000003))
	ep, next := from(0xe0, 16), uint64(0x12340000ffff)
	flagForm := wired(uint64(0x2006), uint64(0), uint32(3), uint32(1), byte(255),
		uint64(0x2001), uint64(0x123400000001), uint32(0), uint32(0), byte(3), from(0xf1, 3))
	return []mailboxVector{
		{"command-mailbox", nil, wired("MAILBOX")},
		{"command-list", cmtp.ListQuery{Down: true, Number: 0x2007, Count: 50}, wired("LIST", byte(1), uint64(0x2007), uint32(50))},
		{"command-changes", cmtp.ChangesQuery{Epoch: epoch, Change: 0x123400000000, Count: 1000}, wired("CHANGES", ep, uint64(0x123400000000), uint32(1000))},
		{"command-fetch", cmtp.FetchQuery{Number: 0x2006, Length: 65536}, wired("FETCH", uint64(0x2006), uint64(0), uint64(65536))},
		{"command-flag", nil, wired("FLAG")},
		{"command-delete", nil, wired("DELETE")},
		{"command-wait", cmtp.WaitQuery{Epoch: epoch, Change: next, Seconds: 1740}, wired("WAIT", ep, next, uint32(1740))},
		{"answer-mailbox", cmtp.MailboxState{Epoch: epoch, Highest: 0x2006, Change: next, Messages: 3, Bytes: 70000, Quota: 16 << 30},
			wired(ep, uint64(0x2006), next, uint64(3), uint64(70000), uint64(16<<30))},
		{"answer-list", cmtp.Page{Epoch: epoch, Next: next, More: true, Entries: []cmtp.Entry{whole, broken}}, wired(ep, next, byte(1), wholeWire, brokenWire)},
		{"answer-changes", cmtp.Page{Epoch: epoch, Next: next, Entries: []cmtp.Entry{whole, goneFrom}}, wired(ep, next, byte(0), wholeWire, goneWire)},
		{"form-flag", []cmtp.FlagItem{{Number: 0x2006, Mask: 3, Flags: 1},
			{Number: 0x2001, Expect: 0x123400000001, SetKeywords: true, Keywords: from(0xf1, 3)}}, block(flagForm)},
		{"answer-flag", []cmtp.FlagResult{{Status: 200, Change: 0x123500000000}, {Status: 564}}, wired(uint16(200), uint64(0x123500000000), uint16(564), uint64(0))},
		{"form-delete", []uint64{0x2001, 0x2006}, block(wired(uint64(0x2001), uint64(0x2006)))},
		{"answer-delete", 1, wired(uint32(1))},
	}
}

func loadMailbox(t *testing.T) []mailboxVector {
	t.Helper()
	var v struct{ Vectors []mailboxVector }
	about := "Commands, answers and forms of the mailbox (docs/protocol.md section 27) to the byte, in hex. A form's wire begins with its " +
		"length. In a value, bytes are lists of numbers or base64, as Go's encoding/json has them."
	made := struct {
		About   string          `json:"about"`
		Vectors []mailboxVector `json:"vectors"`
	}{about, mailboxVectors()}
	if err := json.Unmarshal(vectorFile(t, mailboxFile, made), &v); err != nil {
		t.Fatal(err)
	}
	return v.Vectors
}

// mailboxParsers read what stands on the wire and write it again, each by its vector's name.
var mailboxParsers = map[string]func(b []byte) (value any, again []byte, err error){
	"command-mailbox": none(cmtp.Mailbox), "command-flag": none(cmtp.Flag), "command-delete": none(cmtp.Delete),
	"command-list":    query(cmtp.List, cmtp.ParseListQuery, func(q cmtp.ListQuery) []byte { return q.Append(nil) }),
	"command-changes": query(cmtp.Changes, cmtp.ParseChangesQuery, func(q cmtp.ChangesQuery) []byte { return q.Append(nil) }),
	"command-wait":    query(cmtp.Wait, cmtp.ParseWaitQuery, func(q cmtp.WaitQuery) []byte { return q.Append(nil) }),
	"command-fetch":   query(cmtp.Fetch, cmtp.ParseFetchQuery, func(q cmtp.FetchQuery) []byte { return q.Append(nil) }),
	"answer-mailbox": func(b []byte) (any, []byte, error) {
		s, err := cmtp.ParseMailboxState(b)
		return s, s.Append(nil), err
	},
	"answer-list": func(b []byte) (any, []byte, error) {
		return page(cmtp.ParseList(b, cmtp.ListQuery{Down: true, Number: 0x2007, Count: cmtp.MaxEntries}))
	},
	"answer-changes": func(b []byte) (any, []byte, error) {
		return page(cmtp.ParseChanges(b, cmtp.ChangesQuery{Epoch: epoch, Change: 1, Count: cmtp.MaxEntries}))
	},
	"form-flag": func(b []byte) (any, []byte, error) {
		return form(b, cmtp.ParseFlagForm, func(items []cmtp.FlagItem) (again []byte) {
			for i := range items {
				again = items[i].Append(again)
			}
			return again
		})
	},
	"form-delete": func(b []byte) (any, []byte, error) {
		return form(b, cmtp.ParseDeleteForm, func(n []uint64) []byte { return cmtp.AppendDeleteForm(nil, n) })
	},
	"answer-flag": func(b []byte) (any, []byte, error) {
		r, err := cmtp.ParseFlagResults(b, len(b)/10)
		var again []byte
		for i := range r {
			again = r[i].Append(again)
		}
		return r, again, err
	},
	"answer-delete": func(b []byte) (any, []byte, error) {
		n, err := cmtp.ParseDeleted(b, cmtp.MaxDelete)
		return n, cmtp.AppendDeleted(nil, uint32(n)), err
	},
}

func page(p *cmtp.Page, err error) (any, []byte, error) {
	if err != nil {
		return nil, nil, err
	}
	return *p, p.Append(nil), nil
}

func form[T any](b []byte, parse func([]byte) (T, error), again func(T) []byte) (any, []byte, error) {
	src := bytes.NewReader(b)
	f, err := cmtp.ReadForm(src)
	if err != nil || src.Len() > 0 {
		return nil, nil, errors.Join(err, errBehind)
	}
	v, err := parse(f)
	return v, cmtp.AppendForm(nil, again(v)), err
}

// errBehind: there is more than what a parser reads.
var errBehind = fmt.Errorf("%w: bytes stand behind it", cmtp.ErrForm)

// alone returns what stands behind the strings of a command that is all of b.
func alone(b []byte, v cmtp.Verb) ([]byte, error) {
	cmd, n, err := cmtp.ParseCommand(b)
	if err == nil && (n != len(b) || cmd.Verb != v || b[0] != v.String()[0]) {
		err = errBehind
	}
	return cmd.Fixed, err
}

func none(v cmtp.Verb) func([]byte) (any, []byte, error) {
	return func(b []byte) (any, []byte, error) {
		_, err := alone(b, v)
		return nil, (&cmtp.Command{Verb: v}).Append(nil), err
	}
}

func query[Q any](v cmtp.Verb, parse func([]byte) (Q, error), again func(Q) []byte) func([]byte) (any, []byte, error) {
	return func(b []byte) (any, []byte, error) {
		fixed, err := alone(b, v)
		if err != nil {
			return nil, nil, err
		}
		q, err := parse(fixed)
		return q, (&cmtp.Command{Verb: v, Fixed: again(q)}).Append(nil), err
	}
}

// The codec reads the vectors as what they mean, and writes them again.
func TestMailbox_Vectors(t *testing.T) {
	made := mailboxVectors()
	for i, v := range loadMailbox(t) {
		value, again, err := mailboxParsers[v.Name](v.Wire)
		if err != nil || !bytes.Equal(again, v.Wire) || !reflect.DeepEqual(value, made[i].Value) {
			t.Errorf("%s is\n%+v, %v; want\n%+v; encodes again to\n%x, want\n%x", v.Name, value, err, made[i].Value, again, v.Wire)
		}
	}
}

// TestDocument_Part3 holds the examples of section 27 to the vectors.
func TestDocument_Part3(t *testing.T) {
	found := examples(t, "## 27. ", "## 28. ")
	for _, v := range loadMailbox(t) {
		if !bytes.Equal(found[v.Name], v.Wire) {
			t.Errorf("%s is\n%x in the document, and in the vectors\n%x", v.Name, found[v.Name], v.Wire)
		}
		delete(found, v.Name)
	}
	for name := range found {
		t.Errorf("the vectors do not have %s", name)
	}
}

// What is cut, or goes on behind its end, is refused with the error of its kind.
func TestMailbox_Cut(t *testing.T) {
	for _, v := range mailboxVectors() {
		parse := mailboxParsers[v.Name]
		for end := range len(v.Wire) {
			value, again, err := parse(v.Wire[:end])
			if err == nil && (!bytes.Equal(again, v.Wire[:end]) || !strings.HasPrefix(v.Name, "answer-")) {
				t.Errorf("%s: %d of %d bytes are %+v, which encodes again to %x", v.Name, end, len(v.Wire), value, again)
			}
			if err != nil {
				verdict(t, err)
			}
		}
	}
}

// changed returns b with other bytes from a place on.
func changed(b []byte, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

// What breaks a rule is refused; the last that does not is not.
func TestMailbox_Rules(t *testing.T) {
	wires := map[string][]byte{}
	for _, v := range mailboxVectors() {
		wires[v.Name] = v.Wire
	}
	list, changes, mail := wires["answer-list"], wires["answer-changes"], wires["answer-mailbox"]
	tests := map[string]struct {
		name string
		b    []byte
		want error
	}{
		"Direction2":   {"command-list", changed(wires["command-list"], 5, 2), cmtp.ErrForm},
		"Count0":       {"command-list", changed(wires["command-list"], 14, 0, 0, 0, 0), cmtp.ErrForm},
		"Count1000":    {"command-list", changed(wires["command-list"], 14, 0, 0, 3, 0xe8), nil},
		"Count1001":    {"command-list", changed(wires["command-list"], 14, 0, 0, 3, 0xe9), cmtp.ErrForm},
		"Changes1001":  {"command-changes", changed(wires["command-changes"], 32, 0, 0, 3, 0xe9), cmtp.ErrForm},
		"Seconds0":     {"command-wait", changed(wires["command-wait"], 29, 0, 0, 0, 0), cmtp.ErrForm},
		"Seconds1":     {"command-wait", changed(wires["command-wait"], 29, 0, 0, 0, 1), nil},
		"Seconds1741":  {"command-wait", changed(wires["command-wait"], 29, 0, 0, 6, 0xcd), cmtp.ErrForm},
		"Mask65536":    {"form-flag", changed(wires["form-flag"], 20, 0, 1, 0, 0), cmtp.ErrForm},
		"OutsideMask":  {"form-flag", changed(wires["form-flag"], 24, 0, 0, 0, 4), cmtp.ErrForm},
		"Keywords129":  {"form-flag", changed(wires["form-flag"], 28, 129), cmtp.ErrForm},
		"BitBeyond63":  {"answer-mailbox", changed(mail, 40, 0x80), cmtp.ErrReply},
		"More2":        {"answer-list", changed(list, 24, 2), cmtp.ErrReply},
		"NextIs0":      {"answer-changes", changed(changes, 16, make([]byte, 8)...), cmtp.ErrReply},
		"MoreOfNone":   {"answer-changes", changed(changes[:25], 24, 1), cmtp.ErrReply},
		"None":         {"answer-changes", changes[:25], nil},
		"Kind2":        {"answer-list", changed(list, 25, 2), cmtp.ErrReply},
		"NumberIs0":    {"answer-list", changed(list, 26, make([]byte, 8)...), cmtp.ErrReply},
		"NotBelow":     {"answer-list", changed(list, 26, 0, 0, 0, 0, 0, 0, 0x20, 7), cmtp.ErrReply},
		"ChangeIs0":    {"answer-list", changed(list, 34, make([]byte, 8)...), cmtp.ErrReply},
		"ChangeAbove":  {"answer-changes", changed(changes, 34, 0, 0, 0x12, 0x35), cmtp.ErrReply},
		"Year10000":    {"answer-list", changed(list, 42, 0, 0, 1), cmtp.ErrReply},
		"ServersFlag":  {"answer-list", changed(list, 91, 0, 1), cmtp.ErrReply},
		"HeaderLonger": {"answer-list", changed(list, 100, 62), cmtp.ErrReply},
		"HeaderUTF8":   {"answer-list", changed(list, 125, 0xff), cmtp.ErrReply},
		"RemovedInAList": {"answer-list", append(bytes.Clone(list[:25]), wired(byte(0), uint64(0x2001), uint64(5))...),
			cmtp.ErrReply},
		"DoneWithout0":   {"answer-flag", changed(wires["answer-flag"], 2, make([]byte, 8)...), cmtp.ErrReply},
		"MissingWith":    {"answer-flag", changed(wires["answer-flag"], 19, 1), cmtp.ErrReply},
		"Status300":      {"answer-flag", changed(wires["answer-flag"], 0, 1, 44), cmtp.ErrReply},
		"RemovedTooMany": {"answer-delete", wired(uint32(cmtp.MaxDelete + 1)), cmtp.ErrReply},
		"Delete1000":     {"form-delete", block(make([]byte, 8*cmtp.MaxDelete)), nil},
		"Delete1001":     {"form-delete", block(make([]byte, 8*(cmtp.MaxDelete+1))), cmtp.ErrForm},
	}
	for name, tt := range tests {
		if value, _, err := mailboxParsers[tt.name](tt.b); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
			t.Errorf("%s: %+v, %v; want %v", name, value, err, tt.want)
		}
	}
}

// The bounds are the document's, and the longest entries make the longest page.
func TestMailbox_Bounds(t *testing.T) {
	name := strings.Repeat("n", cmtp.MaxString)
	e := whole
	e.Keywords = make([]byte, cmtp.MaxKeywords)
	e.Header = &cmtp.Header{System: 1, DestinationAccount: name, DestinationDomain: name, SourceAccount: name, SourceDomain: name}
	if n := len(e.Header.Append(nil)); n != 1048 || cmtp.MaxHeader != 1048 || len(e.Append(nil)) != 1249 {
		t.Errorf("a header of %d bytes, an entry of %d", n, len(e.Append(nil)))
	}
	p := cmtp.Page{Epoch: epoch, Next: math.MaxInt64}
	for i := range uint64(cmtp.MaxEntries + 1) {
		e.Number, e.Change = i+1, i+1
		p.Entries = append(p.Entries, e)
	}
	q := cmtp.ListQuery{Count: cmtp.MaxEntries}
	if _, err := cmtp.ParseList(p.Append(nil), q); !errors.Is(err, cmtp.ErrReply) {
		t.Errorf("one entry too many: %v", err)
	}
	p.Entries = p.Entries[:cmtp.MaxEntries]
	b := p.Append(nil)
	if _, err := cmtp.ParseList(b, q); err != nil || len(b) > cmtp.MaxPage {
		t.Errorf("the longest page has %d bytes: %v", len(b), err)
	}
	limits := document(t, "## 30. ", "## 31. ")
	for _, row := range []string{
		fmt.Sprintf("| entries of an answer; of WAIT | 1,000; %d |", cmtp.MaxWaitEntries), "| payload of LIST, CHANGES and WAIT | 1,249,280 bytes |",
		"| numbers in a DELETE | 1,000 |", fmt.Sprintf("| keywords | %d bytes |", cmtp.MaxKeywords), "| wait | 1,740 seconds |",
	} {
		if !strings.Contains(limits, "\n"+row+"\n") {
			t.Errorf("the document does not have %s", row)
		}
	}
	if cmtp.MaxPage != 1249280 || cmtp.MaxWait != 1740 || cmtp.MaxDelete != 1000 {
		t.Error("the bounds are others than the document's")
	}
}

// A page that starts anew, in another epoch or after a number that is lost, begins from 0.
func TestParseChanges_Anew(t *testing.T) {
	p := cmtp.Page{Epoch: epoch, Next: 50, Entries: []cmtp.Entry{{Number: 1, Change: 7, Removed: true}}}
	for name, tt := range map[string]struct {
		q  cmtp.ChangesQuery
		ok bool
	}{
		"Below":      {cmtp.ChangesQuery{Epoch: epoch, Change: 6, Count: 1}, true},
		"Known":      {cmtp.ChangesQuery{Epoch: epoch, Change: 7, Count: 1}, false},
		"OtherEpoch": {cmtp.ChangesQuery{Change: 7, Count: 1}, true},
		"Lost":       {cmtp.ChangesQuery{Epoch: epoch, Change: 51, Count: 1}, true},
	} {
		if _, err := cmtp.ParseChanges(p.Append(nil), tt.q); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMailbox: what any parser of the mailbox accepts encodes again identically, and what
// it holds in memory is in proportion to what it was given.
func FuzzMailbox(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 1<<16)]
		for name, parse := range mailboxParsers {
			var again []byte
			var err error
			cmtptest.Bounded(t, 64<<10+64*uint64(len(in)), func() { _, again, err = parse(in) })
			if err != nil {
				verdict(t, err)
			} else if !bytes.Equal(again, in) {
				t.Fatalf("%s: %x encodes again to %x", name, in, again)
			}
		}
	})
}
