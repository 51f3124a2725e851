package cmtp_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
)

func TestBody_RoundTrip(t *testing.T) {
	for name, want := range map[string]*cmtp.Body{
		"Empty":         {},
		"Text":          {Time: 1, Text: []byte("text")},
		"TextIsNUL":     {Time: 1, Subject: "s", Text: []byte("\x00\x00")},
		"NULAfterCC":    {Time: 1, CC: []string{"a@b"}, Text: []byte("\x00x")},
		"NoSubject":     {Time: 1<<32 - 1, ReplyTo: "bob@cref.example", CC: []string{"x"}},
		"Many":          {CC: strings.Split(strings.Repeat("c@d ", 999)+"e@f", " "), Text: []byte("t")},
		"ControlsStay":  {Subject: "\x1b[31m\r\nBcc: x", Text: []byte("\r\n.\r\n")},
		"HeadOfLimit":   {Subject: strings.Repeat("s", cmtp.MaxBodyHead-8)},
		"LongText":      {Text: bytes.Repeat([]byte("x"), 2*cmtp.MaxBodyHead)},
		"HeadAndText":   {ReplyTo: strings.Repeat("r", cmtp.MaxBodyHead-8), Text: []byte("text")},
		"CopiesOfLimit": {CC: []string{"x", strings.Repeat("c", cmtp.MaxBodyHead-4-2-2-2)}, Text: []byte("text")},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := want.Append([]byte("before"))
			if err != nil {
				t.Fatal(err)
			}
			p, ok := bytes.CutPrefix(p, []byte("before"))
			if !ok {
				t.Fatal("what stood before was changed")
			}
			got, err := cmtp.ParseBody(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Text) == 0 {
				got.Text = want.Text
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("reads back as %+v", got)
			}
		})
	}
}

func TestBody_AppendRefusals(t *testing.T) {
	for name, b := range map[string]*cmtp.Body{
		"NULInSubject":   {Subject: "a\x00b"},
		"NULInReplyTo":   {ReplyTo: "\x00"},
		"NULInCopy":      {CC: []string{"a", "b\x00"}},
		"EmptyCopy":      {CC: []string{"a", ""}},
		"OnlyEmptyCopy":  {CC: []string{""}},
		"SubjectNotUTF8": {Subject: "\xff"},
		"ReplyToNotUTF8": {ReplyTo: "\xc3"},
		"CopyNotUTF8":    {CC: []string{"\xff"}},
		"TextNotUTF8":    {Text: []byte("\xff")},
		"SubjectTooLong": {Subject: strings.Repeat("s", cmtp.MaxBodyHead-7)},
		"ReplyToTooLong": {Subject: "s", ReplyTo: strings.Repeat("s", cmtp.MaxBodyHead-8)},
		"CopiesTooLong":  {CC: []string{"x", strings.Repeat("c", cmtp.MaxBodyHead-4-2-2-1)}},
	} {
		if p, err := b.Append(nil); !errors.Is(err, cmtp.ErrBody) || p != nil {
			t.Errorf("%s: %d bytes, %v", name, len(p), err)
		}
	}
}

func TestParseBody_Refusals(t *testing.T) {
	long := strings.Repeat("s", cmtp.MaxBodyHead)
	for name, p := range map[string]string{
		"Empty":            "",
		"CutTime":          "\x00\x00\x00",
		"OnlyTime":         "\x00\x00\x00\x01",
		"NoSubjectEnd":     "\x00\x00\x00\x01subject",
		"NoReplyToEnd":     "\x00\x00\x00\x01s\x00r",
		"NoCopies":         "\x00\x00\x00\x01s\x00r\x00",
		"NoCopiesOneNUL":   "\x00\x00\x00\x01s\x00r\x00\x00",
		"NoCopiesThenText": "\x00\x00\x00\x01s\x00r\x00\x00text",
		"CopyNoEnd":        "\x00\x00\x00\x01s\x00r\x00copy",
		"CopiesNoEnd":      "\x00\x00\x00\x01s\x00r\x00copy\x00",
		"SubjectNotUTF8":   "\x00\x00\x00\x01\xff\x00r\x00\x00\x00text",
		"ReplyToNotUTF8":   "\x00\x00\x00\x01s\x00\xc3\x00\x00\x00text",
		"CopyNotUTF8":      "\x00\x00\x00\x01s\x00r\x00\xff\x00\x00text",
		"TextNotUTF8":      "\x00\x00\x00\x01s\x00r\x00\x00\x00\xff",
		"SubjectTooLong":   "\x00\x00\x00\x01" + long[:cmtp.MaxBodyHead-7] + "\x00\x00\x00\x00",
		"ReplyToTooLong":   "\x00\x00\x00\x01s\x00" + long[:cmtp.MaxBodyHead-8] + "\x00\x00\x00text",
		"CopyTooLong":      "\x00\x00\x00\x01\x00\x00x\x00" + long[:cmtp.MaxBodyHead-9] + "\x00\x00text",
		"CopiesTooMany":    "\x00\x00\x00\x01\x00\x00" + strings.Repeat("c\x00", cmtp.MaxBodyHead/2) + "\x00text",
	} {
		if b, err := cmtp.ParseBody([]byte(p)); !errors.Is(err, cmtp.ErrBody) || b != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(err.Error()) > 200 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestCutFileName(t *testing.T) {
	longest := strings.Repeat("f", cmtp.MaxFileName)
	for _, c := range []struct {
		name, in, want string
	}{
		{"Plain", "note.txt\x00attached\n", "note.txt"},
		{"Empty", "\x00data", ""},
		{"NoData", "f\x00", "f"},
		{"Claim", "../../etc/\x1b]0;x\x07\x00", "../../etc/\x1b]0;x\x07"},
		{"DataNotUTF8", "f\x00\xff", "f"},
		{"Longest", longest + "\x00", longest},
	} {
		if got, n, err := cmtp.CutFileName([]byte(c.in)); got != c.want || n != len(c.want)+1 || err != nil {
			t.Errorf("%s: %q of %d bytes, %v", c.name, got, n, err)
		}
	}
	for name, in := range map[string]string{
		"Nothing": "", "NoEnd": "note.txt", "NotUTF8": "\xff\x00", "TooLong": longest + "f\x00", "TooLongNoEnd": longest + "ff",
	} {
		if got, n, err := cmtp.CutFileName([]byte(in)); !errors.Is(err, cmtp.ErrBody) || got != "" || n != 0 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}
