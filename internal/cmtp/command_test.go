package cmtp_test

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/netbuf"
)

var (
	verb32   = strings.Repeat("V", cmtp.MaxVerb)
	param255 = strings.Repeat("p", cmtp.MaxString)
	fixed32  = string(counted(32, 7))
	fixed96  = string(counted(96, 3))

	longestAuth = "AUTH\x00" + param255 + "\x00" + param255 + "\x00" + param255 + "\x00" + fixed96
)

var commandCases = []struct {
	name, in string
	verb     cmtp.Verb
	params   []string // and the fixed bytes, as the fourth
	rest     string   // what stands behind the command
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
	{"StartTLS", "STARTTLS\x00\x16\x03\x01", cmtp.StartTLS, nil, "\x16\x03\x01", nil},
	{"Auth", "AUTH\x00alice\x00cref.example\x00home.example\x00" + fixed96 + "NOOP\x00", cmtp.Auth,
		[]string{"alice", "cref.example", "home.example", fixed96}, "NOOP\x00", nil},
	{"AuthOfServer", "AUTH\x00\x00\x00\x00" + fixed96, cmtp.Auth, []string{"", "", "", fixed96}, "", nil},
	{"Unlock", "UNLOCK\x00alice\x00cref.example\x00" + fixed32 + "\x00", cmtp.Unlock, []string{"alice", "cref.example", "", fixed32}, "\x00", nil},
	{"Enroll", "\nENROLL\x00alice\x00cref.example\x00CODE\x00" + fixed32, cmtp.Enroll, []string{"alice", "cref.example", "CODE", fixed32}, "", nil},
	{"Register", "REGISTER\x00alice\x00cref.example\x00CODE\x00\x00\x00\x00\x01f", cmtp.Register,
		[]string{"alice", "cref.example", "CODE"}, "\x00\x00\x00\x01f", nil},
	{"Upload", "UPLOAD\x00\x00\x00\x00\x01f", cmtp.Upload, nil, "\x00\x00\x00\x01f", nil},
	{"Recover", "RECOVER\x00alice\x00cref.example\x00" + fixed96, cmtp.Recover, []string{"alice", "cref.example", "", fixed96}, "", nil},
	{"LongestAuth", longestAuth, cmtp.Auth, []string{param255, param255, param255, fixed96}, "", nil},
	{"FixedOfNULs", "UNLOCK\x00\x00\x00" + strings.Repeat("\x00", 33), cmtp.Unlock, []string{"", "", "", strings.Repeat("\x00", 32)}, "\x00", nil},
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

	{"ServerDomainOf256", "AUTH\x00\x00\x00" + param255 + "p", cmtp.Unknown, nil, "", cmtp.ErrCommand},
	{"CodeOf256", "REGISTER\x00\x00\x00" + param255 + "p\x00", cmtp.Unknown, nil, "", cmtp.ErrCommand},

	{"FixedOf95", "AUTH\x00\x00\x00\x00" + fixed96[:95], cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"FixedOf31", "\r\nUNLOCK\x00\x00\x00" + fixed32[:31], cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"NoFixed", "RECOVER\x00alice\x00cref.example\x00", cmtp.Unknown, nil, "", cmtp.ErrShort},
	{"TwoOfThree", "ENROLL\x00alice\x00cref.example\x00", cmtp.Unknown, nil, "", cmtp.ErrShort},
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
				if cmd.Verb != cmtp.Unknown || cmd.User() != nil || cmd.Domain() != nil || cmd.Code() != nil || cmd.Fixed != nil {
					t.Errorf("a command comes with the error: %v", cmd)
				}
				return
			}
			if cmd.Verb != c.verb || c.in[n:] != c.rest {
				t.Errorf("is a %v and leaves %q, want %v and %q", cmd.Verb, c.in[n:], c.verb, c.rest)
			}
			for i, want := range append(c.params, "", "", "", "")[:4] {
				if got := append(cmd.Params[:], cmd.Fixed)[i]; string(got) != want {
					t.Errorf("parameter %d is %q, want %q", i, got, want)
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
	in := []byte("AUTH\x00alice\x00cref.example\x00home.example\x00" + fixed96 + "NOOP\x00")
	whole := bytes.Clone(in)
	cmd, _, err := cmtp.ParseCommand(in)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(cmd.User(), "+tag"...)
	_ = append(cmd.Domain(), ".evil"...)
	_ = append(cmd.ServerDomain(), ".evil"...)
	_ = append(cmd.Fixed, "MAIL"...)
	if !bytes.Equal(in, whole) {
		t.Errorf("the buffer is %q", in)
	}
}

func TestParseCommand_Allocations(t *testing.T) {
	for _, in := range []string{"", "KEYREQUEST\x00alice\x00cref.", "KEYREQUEST\x00alice\x00cref.example\x00", "junk\x00", longestAuth, longestAuth[:800]} {
		b := []byte(in)
		if n := testing.AllocsPerRun(100, func() { cmtp.ParseCommand(b) }); n != 0 {
			t.Errorf("%q costs %v allocations", in, n)
		}
	}
}

// The longest command leaves most of a connection's buffer to what stands around it,
// and may be a shared port's first.
func TestMaxCommand(t *testing.T) {
	if most := 1024; cmtp.MaxCommand > most || most > netbuf.Size/4 {
		t.Errorf("a command of %d bytes in a buffer of %d", cmtp.MaxCommand, netbuf.Size)
	}
	longest := 0
	for v := cmtp.Ohai; v.String() != "unknown"; v++ {
		longest = max(longest, len(v.String()))
	}
	if longest > cmtp.MaxVerb || len(longestAuth) > cmtp.MaxCommand {
		t.Errorf("a verb of %d bytes, a command of %d", longest, len(longestAuth))
	}
}

func TestCommand_Fixed(t *testing.T) {
	key, sig := crypt.PublicKey(counted(32, 5)), crypt.Signature(counted(64, 3))
	proof := append(bytes.Clone(key[:]), sig[:]...)
	for _, in := range []string{"AUTH\x00a\x00b\x00c\x00", "RECOVER\x00a\x00b\x00"} {
		cmd, _, err := cmtp.ParseCommand(append([]byte(in), proof...))
		if err != nil || cmd.Key() != key || cmd.Signature() != sig {
			t.Errorf("%q proves %x by %x, %v", in, cmd.Key(), cmd.Signature(), err)
		}
	}
	cmd, _, err := cmtp.ParseCommand(append([]byte("ENROLL\x00a\x00b\x00c\x00"), key[:]...))
	if err != nil || cmd.Element() != [32]byte(key) || string(cmd.Code()) != "c" {
		t.Errorf("the element is %x, the code %s, %v", cmd.Element(), cmd.Code(), err)
	}
}

// Both texts of HELP name every verb of their part once, in the table's order:
// STARTTLS only in the clear, and what follows it only inside.
func TestVerb(t *testing.T) {
	var outside, inside []string
	for v := cmtp.Ohai; v.String() != "unknown"; v++ {
		if got := cmtp.ParseVerb([]byte(v.String())); got != v || !cmtp.IsVerb([]byte(v.String())) {
			t.Errorf("%v is %v", v, got)
		}
		if v <= cmtp.StartTLS {
			outside = append(outside, v.String())
		}
		if v != cmtp.StartTLS {
			inside = append(inside, v.String())
		}
	}
	if got := strings.Join(outside, " "); got != cmtp.HelpText {
		t.Errorf("HELP says %q, want %q", cmtp.HelpText, got)
	}
	if got := strings.Join(inside, " "); got != cmtp.HelpText1 || len(got) > 1023 {
		t.Errorf("inside, HELP says %q, want %q", cmtp.HelpText1, got)
	}
	if v := cmtp.Wait + 1; v.String() != "unknown" || cmtp.Unknown.String() != "unknown" {
		t.Errorf("a verb that is none is called %v", v)
	}
	for _, s := range []string{"", "ohai", "OHAI\x00", "EHLO"} {
		if cmtp.IsVerb([]byte(s)) {
			t.Errorf("%q is a verb", s)
		}
	}
}

// The document's grammar and table of section 16.1 name the verbs that exist inside,
// with as many strings and bytes behind them as the codec has.
func TestVerb_Document(t *testing.T) {
	text := document(t, "### 16.1 ", "### 16.2 ")
	_, choice, _ := strings.Cut(text, "command1    = ")
	choice, _, _ = strings.Cut(choice, "\nauth ")
	mailbox := document(t, "## 27. ", "### 27.1 ")
	_, more, _ := strings.Cut(mailbox, "command1    =/ ")
	more, _, _ = strings.Cut(more, "\nmailbox ")
	choice += " / " + more
	grammar := strings.ToUpper(strings.Join(strings.Fields(strings.ReplaceAll(choice, "/", " ")), " "))
	if grammar != cmtp.HelpText1 {
		t.Errorf("the grammar has %q, HELP %q", grammar, cmtp.HelpText1)
	}
	rows := map[string]bool{}
	_, table, _ := strings.Cut(text, "| command | payload of its success")
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z, ]+) \|`).FindAllStringSubmatch(table, -1) {
		for _, verb := range strings.Split(m[1], ", ") {
			if rows[verb] || cmtp.ParseVerb([]byte(verb)) == cmtp.Unknown || verb == "STARTTLS" {
				t.Errorf("the table has %s", verb)
			}
			rows[verb] = true
		}
	}
	for verb := range strings.FieldsSeq(cmtp.HelpText1) {
		if !rows[verb] && cmtp.ParseVerb([]byte(verb)) < cmtp.Mailbox { // the others have a section each
			t.Errorf("the table does not have %s", verb)
		}
	}
	size := map[string]int{"key": 32, "signature": 64, "element": 32, "direction": 1, "epoch": 16, "u64": 8, "u32": 4, "count": 4}
	rules := regexp.MustCompile(`(?m)^[a-z]+ += %s"([A-Z]+)" NUL ?([a-z0-9 ]*?) *(?:;.*)?$`).FindAllStringSubmatch(text+mailbox, -1)
	if len(rules) != 13 {
		t.Errorf("the grammar has %d rules of commands", len(rules))
	}
	for _, m := range rules {
		params, fixed := 0, 0
		for word := range strings.FieldsSeq(m[2]) {
			if n := size[word]; n > 0 {
				fixed += n
			} else if word != "form" {
				params++
			}
		}
		in := []byte(m[1] + "\x00" + strings.Repeat("p\x00", params) + strings.Repeat("f", fixed))
		checkOneByteAtATime(t, in)
		if cmd, _, err := cmtp.ParseCommand(in); err != nil || len(cmd.Fixed) != fixed || cmd.Verb.String() != m[1] {
			t.Errorf("%s: %v with %d bytes, %v", m[0], cmd.Verb, len(cmd.Fixed), err)
		}
	}
}
