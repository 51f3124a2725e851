package cmtp_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
)

var (
	verb32   = strings.Repeat("V", cmtp.MaxVerb)
	param255 = strings.Repeat("p", cmtp.MaxString)
)

var commandCases = []struct {
	name, in string
	verb     cmtp.Verb
	params   []string
	rest     string // what stands behind the command
	err      error
}{
	{"Ohai", "OHAI\x00", cmtp.Ohai, nil, "", nil},
	{"Noop", "NOOP\x00", cmtp.Noop, nil, "", nil},
	{"Help", "HELP\x00", cmtp.Help, nil, "", nil},
	{"Mail", "MAIL\x00\x00\x00\x00\x01", cmtp.Mail, nil, "\x00\x00\x00\x01", nil},
	{"Obai", "OBAI\x00", cmtp.Obai, nil, "", nil},
	{"KeyRequest", "KEYREQUEST\x00alice\x00cref.example\x00", cmtp.KeyRequest, []string{"alice", "cref.example"}, "", nil},
	{"ServerKey", "KEYREQUEST\x00\x00\x00", cmtp.KeyRequest, []string{"", ""}, "", nil},
	{"NoDomain", "KEYREQUEST\x00alice\x00\x00NOOP\x00", cmtp.KeyRequest, []string{"alice", ""}, "NOOP\x00", nil},
	{"Login", "LOGIN\x00alice@cref.example\x00", cmtp.Login, []string{"alice@cref.example"}, "", nil},
	{"NewlineInParameter", "LOGIN\x00\r\n\x00", cmtp.Login, []string{"\r\n"}, "", nil},
	{"TelnetLine", "OHAI\x00\r\n", cmtp.Ohai, nil, "\r\n", nil},
	{"Filler", "\x00\r\n\r\n\x00OHAI\x00\r\n", cmtp.Ohai, nil, "\r\n", nil},
	{"LowerCase", "ohai\x00", cmtp.Unknown, nil, "", nil},
	{"MixedCase", "Keyrequest\x00alice\x00", cmtp.Unknown, nil, "alice\x00", nil},
	{"SpaceBehind", "OHAI \x00", cmtp.Unknown, nil, "", nil},
	{"SpaceBefore", " OHAI\x00", cmtp.Unknown, nil, "", nil},
	{"Longer", "OHAIX\x00", cmtp.Unknown, nil, "", nil},
	{"Shorter", "OHA\x00", cmtp.Unknown, nil, "", nil},
	{"Binary", "\xff\xfe\x00", cmtp.Unknown, nil, "", nil},
	{"VerbOf32", verb32 + "\x00N", cmtp.Unknown, nil, "N", nil},
	{"ParamsOf255", "KEYREQUEST\x00" + param255 + "\x00" + param255 + "\x00", cmtp.KeyRequest, []string{param255, param255}, "", nil},
	{"LoginOf255", "LOGIN\x00" + param255 + "\x00", cmtp.Login, []string{param255}, "", nil},

	{"VerbOf33", verb32 + "V", cmtp.Unknown, nil, "", cmtp.ErrCommand},
	{"VerbOf33WithEnd", verb32 + "V\x00", cmtp.Unknown, nil, "", cmtp.ErrCommand},
	{"UserOf256", "KEYREQUEST\x00" + param255 + "p", cmtp.Unknown, nil, "", cmtp.ErrCommand},
	{"DomainOf256", "KEYREQUEST\x00alice\x00" + param255 + "p\x00", cmtp.Unknown, nil, "", cmtp.ErrCommand},
	{"LoginOf256", "LOGIN\x00" + param255 + "p\x00", cmtp.Unknown, nil, "", cmtp.ErrCommand},

	{"Nothing", "", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"OnlyFiller", "\r\n\x00", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"ElevenBytes", "KEYREQUESTX", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"NoParameter", "KEYREQUEST\x00", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"OneParameter", "KEYREQUEST\x00alice\x00cref", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"VerbOf32WithoutEnd", verb32, cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"ParamOf255WithoutEnd", "LOGIN\x00" + param255, cmtp.Unknown, nil, "", cmtp.ErrShort},
}

func TestParseCommand(t *testing.T) {
	for _, c := range commandCases {
		t.Run(c.name, func(t *testing.T) {
			cmd, n, err := cmtp.ParseCommand([]byte(c.in))
			if err != c.err && !errors.Is(err, c.err) {
				t.Fatalf("the error is %v, want %v", err, c.err)
			}
			if err != nil {
				if want := len(c.in) - len(strings.TrimLeft(c.in, "\x00\r\n")); n != want {
					t.Errorf("%d bytes may be dropped, want %d", n, want)
				}
				if cmd.Verb != cmtp.Unknown || cmd.User() != nil || cmd.Domain() != nil {
					t.Errorf("a command comes with the error: %v", cmd)
				}
				return
			}
			if cmd.Verb != c.verb || c.in[n:] != c.rest {
				t.Errorf("is a %v and leaves %q, want %v and %q", cmd.Verb, c.in[n:], c.verb, c.rest)
			}
			for i, want := range append(c.params, "", "")[:2] {
				if string(cmd.Params[i]) != want {
					t.Errorf("parameter %d is %q, want %q", i, cmd.Params[i], want)
				}
			}
			if cmd.Verb != cmtp.Unknown {
				again := string(cmd.Append(nil))
				if strings.TrimLeft(c.in[:n], "\x00\r\n") != again {
					t.Errorf("encodes again to %q", again)
				}
			}
			checkOneByteAtATime(t, []byte(c.in[:n]))
		})
	}
}

// checkOneByteAtATime parses every beginning of one command, of which none but
// the whole is more than short.
func checkOneByteAtATime(t testing.TB, command []byte) {
	t.Helper()
	for i := range command {
		if _, _, err := cmtp.ParseCommand(command[:i]); err != cmtp.ErrShort {
			t.Fatalf("%d of %d bytes: %v, want ErrShort", i, len(command), err)
		}
	}
	if _, n, err := cmtp.ParseCommand(command); n != len(command) || err != nil {
		t.Fatalf("%d of %d bytes were taken, %v", n, len(command), err)
	}
}

func TestParseCommand_Several(t *testing.T) {
	in := []byte("OHAI\x00\r\nHELP\x00KEYREQUEST\x00\x00\x00\x00\nLOGIN\x00a\x00junk\x00MAIL\x00message")
	var got []cmtp.Verb
	for {
		cmd, n, err := cmtp.ParseCommand(in)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, cmd.Verb)
		in = in[n:]
		if cmd.Verb == cmtp.Mail {
			break
		}
	}
	want := []cmtp.Verb{cmtp.Ohai, cmtp.Help, cmtp.KeyRequest, cmtp.Login, cmtp.Unknown, cmtp.Mail}
	if string(in) != "message" || len(got) != len(want) {
		t.Fatalf("%v, %q is left, want %v", got, in, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("command %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// A parameter has no room into which an append would write over what follows.
func TestParseCommand_ParametersAreClosed(t *testing.T) {
	in := []byte("KEYREQUEST\x00alice\x00cref.example\x00NOOP\x00")
	whole := bytes.Clone(in)
	cmd, _, err := cmtp.ParseCommand(in)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(cmd.User(), "+tag"...)
	_ = append(cmd.Domain(), ".evil"...)
	if !bytes.Equal(in, whole) {
		t.Errorf("the buffer is %q", in)
	}
}

func TestParseCommand_Allocations(t *testing.T) {
	for _, in := range []string{"", "KEYREQUEST\x00alice\x00cref.", "KEYREQUEST\x00alice\x00cref.example\x00", "junk\x00"} {
		b := []byte(in)
		if n := testing.AllocsPerRun(100, func() { cmtp.ParseCommand(b) }); n != 0 {
			t.Errorf("%q costs %v allocations", in, n)
		}
	}
}

func TestVerb(t *testing.T) {
	for i, word := range strings.Fields(cmtp.HelpText) {
		v := cmtp.ParseVerb([]byte(word))
		if v != cmtp.Ohai+cmtp.Verb(i) || v.String() != word || !cmtp.IsVerb([]byte(word)) {
			t.Errorf("%s is verb %d, called %v", word, v, v)
		}
	}
	if v := cmtp.Obai + 1; v.String() != "unknown" || cmtp.Unknown.String() != "unknown" {
		t.Errorf("a verb that is none is called %v", v)
	}
	for _, s := range []string{"", "ohai", "OHAI\x00", "EHLO"} {
		if cmtp.IsVerb([]byte(s)) {
			t.Errorf("%q is a verb", s)
		}
	}
	if n := len(cmtp.KeyRequest.String()); n > cmtp.MaxVerb {
		t.Errorf("a verb of %d bytes", n)
	}
}
