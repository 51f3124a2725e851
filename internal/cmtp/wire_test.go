package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

var update = flag.Bool("update", false, "write testdata/cmtp-1-wire.json and testdata/cmtp-1-mailbox.json anew")

// aliceKey is the key that the statements are for.
const aliceKey = "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7"

const wireFile = "../../testdata/cmtp-1-wire.json"

// The vectors of CMTP 1's layout. Signatures, elements and the keys of commands are
// counted bytes: the codec checks none of them.
type wireVectors struct {
	About    string        `json:"about,omitempty"`
	Commands []wireCommand `json:"commands,omitempty"`
	Replies  []wireReply   `json:"replies,omitempty"`
	Forms    []wireForm    `json:"forms,omitempty"`
}

type wireCommand struct {
	Name   string   `json:"name,omitempty"`
	Verb   string   `json:"verb,omitempty"`
	Params []string `json:"params,omitempty"`
	Fixed  hexBytes `json:"fixed,omitempty"`
	Wire   hexBytes `json:"wire,omitempty"`
}

// A wireReply has a payload when it is a success, and a reason otherwise.
type wireReply struct {
	Name    string   `json:"name,omitempty"`
	Status  uint16   `json:"status,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Payload hexBytes `json:"payload,omitempty"`
	Wire    hexBytes `json:"wire,omitempty"`
}

// A wireForm is what follows a command, with its length. REGISTER's has no digest of
// what it replaces and no old signature; UPLOAD's may have no statement.
type wireForm struct {
	Name         string   `json:"name,omitempty"`
	Verb         string   `json:"verb,omitempty"`
	Replaces     hexBytes `json:"replaces,omitempty"`
	Statement    hexBytes `json:"statement,omitempty"`
	OldSignature hexBytes `json:"old_signature,omitempty"`
	Possession   hexBytes `json:"possession,omitempty"`
	Xzibit       hexBytes `json:"xzibit,omitempty"`
	Copy         hexBytes `json:"copy,omitempty"`
	Wire         hexBytes `json:"wire,omitempty"`
}

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// from returns n bytes that count from first.
func from(first byte, n int) hexBytes {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// block puts its length before b.
func block(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// statement is a key statement in the layout of protocol.md section 17.2.
func statement(domain, account string, before []byte) []byte {
	b := []byte("CMTP-1 key\x00" + domain + "\x00" + account + "\x00\x00\x00\x00\x01")
	key, _ := hex.DecodeString(aliceKey)
	b = append(b, key...)
	b = binary.BigEndian.AppendUint64(b, 1467676800)
	return append(append(b, 0), before...)
}

// someXzibit has the outer layout of one, and next to nothing in it.
func someXzibit() []byte {
	return bytes.Join([][]byte{{0, 0, 0, 3}, from(0x80, 32), {0, 0, 0, 0, 0, 0, 0, 4}, from(0xf0, 4)}, nil)
}

// wire makes the vectors, without the codec.
func wire() *wireVectors {
	v := &wireVectors{About: "Commands, replies and forms of CMTP 1 (docs/protocol.md sections 16 and 19) to the byte, in hex. " +
		"Signatures, elements and the keys of commands are counted bytes and verify nothing. A form's wire begins with its length."}
	command := func(verb string, fixed []byte, params ...string) {
		b := []byte(verb + "\x00")
		for _, p := range params {
			b = append(append(b, p...), 0)
		}
		name := "command-" + strings.ToLower(verb)
		v.Commands = append(v.Commands, wireCommand{name, verb, params, fixed, append(b, fixed...)})
	}
	proof, element := append(from(0x10, 32), from(0x40, 64)...), from(0xa0, 32)
	const code = "0123456789AB"
	for _, verb := range []string{"OHAI", "NOOP", "HELP"} {
		command(verb, nil)
	}
	command("KEYREQUEST", nil, "alice", "cref.example")
	command("LOGIN", nil, "alice@cref.example")
	for _, verb := range []string{"MAIL", "OBAI", "STARTTLS"} {
		command(verb, nil)
	}
	command("AUTH", proof, "alice", "cref.example", "cref.example")
	command("UNLOCK", element, "alice", "cref.example")
	command("ENROLL", element, "alice", "cref.example", code)
	command("REGISTER", nil, "alice", "cref.example", code)
	command("UPLOAD", nil)
	command("RECOVER", proof, "alice", "cref.example")

	reply := func(name string, status uint16, payload []byte, reason string) {
		b := binary.BigEndian.AppendUint16(nil, status)
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)+len(reason)))
		v.Replies = append(v.Replies, wireReply{name, status, reason, payload, append(append(b, payload...), reason...)})
	}
	reply("reply-done", 200, element, "")
	reply("reply-nothing", 200, nil, "")
	reply("reply-queued", 202, from(0, 80), "")
	reply("reply-later", 450, nil, "too many attempts; try again after 12:30 UTC")
	reply("reply-never", 550, nil, "there is no account zoë@cref.example")

	form := func(f wireForm, parts ...[]byte) {
		parts = append(parts, block(f.Xzibit), block(f.Copy))
		f.Wire = block(bytes.Join(parts, nil))
		v.Forms = append(v.Forms, f)
	}
	first, st := statement("cref.example", "alice", make([]byte, 32)), statement("cref.example", "alice", from(0xc0, 32))
	old, own, digest := from(0x50, 64), from(0x40, 64), from(0xe0, 32)
	form(wireForm{Name: "form-register", Verb: "REGISTER", Statement: first, Possession: own, Xzibit: someXzibit(), Copy: from(0x70, 8)},
		first, make([]byte, 64), own)
	form(wireForm{Name: "form-upload", Verb: "UPLOAD", Replaces: digest, Xzibit: someXzibit()}, digest, []byte{0})
	form(wireForm{Name: "form-upload-key", Verb: "UPLOAD", Replaces: digest, Statement: st, OldSignature: old, Possession: own,
		Xzibit: someXzibit(), Copy: from(0x70, 8)}, digest, []byte{1}, st, old, own)
	return v
}

// loadWire reads the vectors, which are as wire makes them.
func loadWire(t *testing.T) *wireVectors {
	t.Helper()
	v := &wireVectors{}
	if err := json.Unmarshal(vectorFile(t, wireFile, wire()), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// vectorFile returns a file that has to be what the test makes.
func vectorFile(t *testing.T, name string, made any) []byte {
	t.Helper()
	want, err := json.MarshalIndent(made, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s is not what the test makes (%v); where it is right, make it again with -update", name, err)
	}
	return got
}

func TestWire_Commands(t *testing.T) {
	seen := map[cmtp.Verb]bool{}
	for _, v := range loadWire(t).Commands {
		cmd, n, err := cmtp.ParseCommand(append(bytes.Clone(v.Wire), "rest"...))
		if err != nil || n != len(v.Wire) || cmd.Verb.String() != v.Verb || !bytes.Equal(cmd.Append(nil), v.Wire) {
			t.Fatalf("%s: %v, %d of %d bytes, %v", v.Name, cmd.Verb, n, len(v.Wire), err)
		}
		for i, p := range append(v.Params, "", "", "")[:3] {
			if string(cmd.Params[i]) != p {
				t.Errorf("%s: parameter %d is %q, want %q", v.Name, i, cmd.Params[i], p)
			}
		}
		if !bytes.Equal(cmd.Fixed, v.Fixed) {
			t.Errorf("%s: %x behind its strings, want %x", v.Name, cmd.Fixed, v.Fixed)
		}
		seen[cmd.Verb] = true
	}
	for _, v := range loadMailbox(t) {
		if cmd, _, err := cmtp.ParseCommand(v.Wire); strings.HasPrefix(v.Name, "command-") && err == nil {
			seen[cmd.Verb] = true
		}
	}
	for verb := cmtp.Ohai; verb.String() != "unknown"; verb++ {
		if !seen[verb] {
			t.Errorf("there is no vector of %v", verb)
		}
	}
}

func TestWire_Replies(t *testing.T) {
	for _, v := range loadWire(t).Replies {
		src := bytes.NewReader(append(bytes.Clone(v.Wire), "rest"...))
		status, payload, err := cmtp.ReadReply(src, uint64(len(v.Payload)))
		again := cmtp.AppendReply(nil, status, payload)
		var failure *cmtp.StatusError
		if errors.As(err, &failure) {
			if failure.Status != status || failure.Reason != v.Reason || failure.Temporary() != (status < 500) {
				t.Errorf("%s: %v", v.Name, failure)
			}
			again = cmtp.AppendFailure(nil, failure.Status, failure.Reason)
		}
		if uint16(status) != v.Status || !bytes.Equal(payload, v.Payload) || (err == nil) != (v.Status < 300) {
			t.Errorf("%s: %d, %x, %v", v.Name, status, payload, err)
		}
		if !bytes.Equal(again, v.Wire) || src.Len() != len("rest") {
			t.Errorf("%s: encodes again to %x, %d bytes are left", v.Name, again, src.Len())
		}
	}
}

func TestWire_Forms(t *testing.T) {
	for _, v := range loadWire(t).Forms {
		src := bytes.NewReader(append(bytes.Clone(v.Wire), "rest"...))
		form, err := cmtp.ReadForm(src)
		if err != nil || src.Len() != len("rest") || !bytes.Equal(cmtp.AppendForm(nil, form), v.Wire) {
			t.Fatalf("%s: %x, %v", v.Name, form, err)
		}
		got := wireForm{Name: v.Name, Verb: v.Verb, Wire: v.Wire}
		var again []byte
		switch v.Verb {
		case "REGISTER":
			f, err := cmtp.ParseRegisterForm(form)
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
			got.Statement, got.Possession, got.Xzibit, got.Copy = f.Statement.Append(nil), f.Possession[:], f.Xzibit, f.Copy
			again = f.Append(nil)
		case "UPLOAD":
			f, err := cmtp.ParseUploadForm(form)
			if err != nil {
				t.Fatalf("%s: %v", v.Name, err)
			}
			got.Replaces, got.Xzibit, got.Copy = f.Replaces[:], f.Xzibit, f.Copy
			if f.Statement != nil {
				got.Statement = f.Statement.Append(nil)
				got.OldSignature, got.Possession = f.OldSignature[:], f.Possession[:]
			} else if f.OldSignature != (crypt.Signature{}) || f.Possession != (crypt.Signature{}) {
				t.Errorf("%s: signatures without a statement", v.Name)
			}
			again = f.Append(nil)
		}
		gotText, _ := json.Marshal(got)
		wantText, _ := json.Marshal(v)
		if !bytes.Equal(gotText, wantText) || !bytes.Equal(again, form) {
			t.Errorf("%s is\n%s, want\n%s; encodes again to %x", v.Name, gotText, wantText, again)
		}
	}
}

// TestDocument_Part2 holds the examples of sections 16 and 19 to the vectors.
func TestDocument_Part2(t *testing.T) {
	found := examples(t, "## 16. ", "## 17. ")
	for name, b := range examples(t, "## 19. ", "## 20. ") {
		found[name] = b
	}
	vectors := map[string][]byte{}
	v := loadWire(t)
	for _, c := range v.Commands {
		vectors[c.Name] = c.Wire
	}
	for _, r := range v.Replies {
		vectors[r.Name] = r.Wire
	}
	for _, f := range v.Forms {
		vectors[f.Name] = f.Wire
		if found[f.Name] == nil {
			t.Errorf("the document does not show %s", f.Name)
		}
	}
	if len(found) < 9 {
		t.Errorf("the document shows %d examples", len(found))
	}
	for name, b := range found {
		if strings.HasPrefix(name, "statement-") {
			continue // checked by internal/crypt
		}
		if !bytes.Equal(b, vectors[name]) {
			t.Errorf("%s is\n%x in the document, and in the vectors\n%x", name, b, vectors[name])
		}
	}
}
