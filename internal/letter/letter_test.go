package letter_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

var (
	alice = mustAddress("alice@example.net")
	bob   = mustAddress("bob+letters@example.org")
	now   = time.Unix(1_800_000_000, 0)
)

func mustAddress(s string) address.Address {
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

// key returns the same key for the same seed.
func key(t testing.TB, seed byte) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{seed}, crypt.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func attachment(name, data string) letter.Attachment {
	return letter.Attachment{Name: name, Size: int64(len(data)), Data: strings.NewReader(data)}
}

func draft() *letter.Draft {
	return &letter.Draft{
		Time: now, Subject: "Grüße", ReplyTo: "alice@example.com", CC: []string{"carol@example.net", "dave@example.net"},
		Text: []byte("Hello,\n\tBob.\n"),
		Attachments: []letter.Attachment{
			attachment("note.txt", "attached\n"),
			attachment("empty", ""),
			attachment("large.bin", strings.Repeat("0123456789abcdef", 20000)),
		},
	}
}

// seal returns the message's bytes.
func seal(t testing.TB, d *letter.Draft, to crypt.PublicKey) []byte {
	t.Helper()
	m, err := d.Seal(alice, bob, to)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n, err := m.WriteTo(&b)
	if err != nil || n != int64(b.Len()) || n != m.Size() {
		t.Fatalf("WriteTo said %d of %d bytes, %v; wrote %d", n, m.Size(), err, b.Len())
	}
	return b.Bytes()
}

func open(b []byte, keys ...*crypt.PrivateKey) (*letter.Letter, error) {
	return letter.Open(bytes.NewReader(b), int64(len(b)), keys)
}

func read(t *testing.T, a letter.Attachment) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(a.Data, 0, a.Size))
	if err != nil || int64(len(b)) != a.Size {
		t.Fatalf("attachment %q: %d of %d bytes, %v", a.Name, len(b), a.Size, err)
	}
	return string(b)
}

func TestOpen(t *testing.T) {
	older, newer := key(t, 1), key(t, 2)
	d := draft()
	l, err := open(seal(t, d, older.Public()), newer, older)
	if err != nil {
		t.Fatal(err)
	}
	env := [4]string{l.Header.DestinationAccount, l.Header.DestinationDomain, l.Header.SourceAccount, l.Header.SourceDomain}
	if want := [4]string{"bob+letters", "example.org", "alice", "example.net"}; env != want {
		t.Errorf("envelope %q, want %q", env, want)
	}
	if !l.Sealed || !l.Time.Equal(now) || l.Subject != d.Subject || l.ReplyTo != d.ReplyTo || !slices.Equal(l.CC, d.CC) || !bytes.Equal(l.Text, d.Text) {
		t.Errorf("got %+v", l)
	}
	if len(l.Attachments) != len(d.Attachments) {
		t.Fatalf("%d attachments", len(l.Attachments))
	}
	for i, a := range l.Attachments {
		if want := d.Attachments[i]; a.Name != want.Name || read(t, a) != read(t, want) {
			t.Errorf("attachment %d is %q with %d bytes", i, a.Name, a.Size)
		}
	}
}

func TestOpen_SealedTwice(t *testing.T) {
	d, b, c := draft(), key(t, 1), key(t, 2)
	for _, k := range []*crypt.PrivateKey{b, c} {
		if _, err := open(seal(t, d, k.Public()), k); err != nil {
			t.Error(err)
		}
	}
}

func TestOpen_OtherKeys(t *testing.T) {
	m := seal(t, draft(), key(t, 1).Public())
	for _, keys := range [][]*crypt.PrivateKey{nil, {key(t, 2)}, {key(t, 2), key(t, 3)}} {
		if _, err := open(m, keys...); !errors.Is(err, letter.ErrKeys) {
			t.Errorf("with %d keys: %v, want ErrKeys", len(keys), err)
		}
	}
}

// Every byte of body and attachments is covered by a tag: with any of them altered
// nothing of the letter is handed out.
func TestOpen_Altered(t *testing.T) {
	d := &letter.Draft{Time: now, Subject: "s", Text: []byte("text"), Attachments: []letter.Attachment{attachment("a", "data"), attachment("b", "")}}
	k := key(t, 1)
	good := seal(t, d, k.Public())
	layout, err := cmtp.ParseLayout(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range append([]cmtp.Extent{layout.Body}, layout.Attachments...) {
		for at := part.Offset; at < part.Offset+part.Length; at++ {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if at < part.Offset+32 {
				// The top bit of an X25519 key is ignored, the others are not.
				bad[at] ^= 2
			}
			if l, err := open(bad, k); err == nil || l != nil {
				t.Fatalf("a message with byte %d altered opened", at)
			}
		}
	}
	for n := range good {
		if _, err := open(good[:n], k); err == nil {
			t.Fatalf("the first %d of %d bytes opened", n, len(good))
		}
	}
}

func TestOpen_Plain(t *testing.T) {
	body := cmtp.Body{Time: 7, Subject: "legacy", Text: []byte("x")}
	p, err := body.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var m bytes.Buffer
	h := cmtp.Header{System: cmtp.SystemPlain, DestinationAccount: "bob", DestinationDomain: "example.org"}
	if err := cmtp.WriteMessage(&m, h, []byte("one\x00two\x00"), plain(p), []cmtp.Part{plain("name\x00data")}); err != nil {
		t.Fatal(err)
	}
	l, err := open(m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if l.Sealed || l.Subject != "legacy" || !slices.Equal(l.Log, []string{"one", "two"}) || read(t, l.Attachments[0]) != "data" {
		t.Errorf("got %+v", l)
	}
}

type plain []byte

func (p plain) Size() int64                        { return int64(len(p)) }
func (p plain) WriteTo(w io.Writer) (int64, error) { n, err := w.Write(p); return int64(n), err }

func TestOpen_Malformed(t *testing.T) {
	k := key(t, 1)
	sealed := func(p string) cmtp.Part {
		b, err := crypt.Seal(nil, []byte(p), k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return plain(b)
	}
	const body = "\x00\x00\x00\x01s\x00r\x00\x00\x00text"
	tests := map[string]struct {
		body        cmtp.Part
		attachments []cmtp.Part
		want        error
	}{
		"NoBody":           {sealed(""), nil, cmtp.ErrBody},
		"NotUTF8":          {sealed(body + "\xff"), nil, cmtp.ErrBody},
		"NamelessFile":     {sealed(body), []cmtp.Part{sealed("no end")}, cmtp.ErrBody},
		"LongName":         {sealed(body), []cmtp.Part{sealed(strings.Repeat("n", cmtp.MaxFileName+1) + "\x00")}, cmtp.ErrBody},
		"LongestName":      {sealed(body), []cmtp.Part{sealed(strings.Repeat("n", cmtp.MaxFileName) + "\x00")}, nil},
		"FileOfAnotherKey": {sealed(body), []cmtp.Part{plain(make([]byte, 60))}, crypt.ErrOpen},
		"LargeText":        {zeros(64<<20 + 1), nil, letter.ErrTooLarge},
		"LargestText":      {zeros(64 << 20), nil, letter.ErrKeys}, // is read, and is no box
		"ManyLongNames": {sealed(body), slices.Repeat([]cmtp.Part{sealed(strings.Repeat("n", cmtp.MaxFileName) + "\x00")}, 1025),
			letter.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := temp(t)
			h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "bob", DestinationDomain: "example.org"}
			if err := cmtp.WriteMessage(f, h, nil, tt.body, tt.attachments); err != nil {
				t.Fatal(err)
			}
			if _, err := openFile(t, f, k); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

type zeros int64

func (z zeros) Size() int64 { return int64(z) }
func (z zeros) WriteTo(w io.Writer) (int64, error) {
	chunk := make([]byte, 1<<20)
	for n := int64(0); n < int64(z); {
		m, err := w.Write(chunk[:min(int64(len(chunk)), int64(z)-n)])
		if n += int64(m); err != nil {
			return n, err
		}
	}
	return int64(z), nil
}

func temp(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "message"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func openFile(t *testing.T, f *os.File, keys ...*crypt.PrivateKey) (*letter.Letter, error) {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return letter.Open(f, info.Size(), keys)
}

// The project's vectors were made with libsodium and not with this code.
func TestOpen_Vectors(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Keys struct {
			Alice struct {
				Seed string `json:"ed25519_seed"`
			}
		}
		Message struct {
			Good, Bad []struct{ Name, Message string }
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	k, err := crypt.PrivateKeyFromSeed(unhex(t, vectors.Keys.Alice.Seed))
	if err != nil {
		t.Fatal(err)
	}
	if len(vectors.Message.Good) < 5 || len(vectors.Message.Bad) < 8 {
		t.Fatal("vectors are missing")
	}
	for _, v := range vectors.Message.Good {
		m := unhex(t, v.Message)
		l, err := open(m, k)
		if layout, lerr := cmtp.ParseLayout(bytes.NewReader(m), int64(len(m))); lerr == nil && layout.Body.Length == crypt.Overhead {
			if !errors.Is(err, cmtp.ErrBody) { // an empty box: a message, but no letter
				t.Errorf("%s: %v, want ErrBody", v.Name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
		} else if l.Subject != "Hello" || l.ReplyTo != "bob@cref.example" || string(l.Text) != "Hi Alice\n" || l.Time.Unix() != 1467676800 {
			t.Errorf("%s: %+v", v.Name, l)
		}
	}
	for _, v := range vectors.Message.Bad {
		if l, err := open(unhex(t, v.Message), k); err == nil {
			t.Errorf("%s opened: %+v", v.Name, l)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDraft_Seal_Fields(t *testing.T) {
	long := strings.Repeat("x", cmtp.MaxFileName)
	tests := map[string]struct {
		change func(*letter.Draft)
		ok     bool
	}{
		"OK":               {func(*letter.Draft) {}, true},
		"NoText":           {func(d *letter.Draft) { d.Text = nil }, true},
		"LineBreak":        {func(d *letter.Draft) { d.Subject = "a\nFrom: b" }, false},
		"Escape":           {func(d *letter.Draft) { d.ReplyTo = "\x1b[2J" }, false},
		"NUL":              {func(d *letter.Draft) { d.CC = []string{"a\x00b"} }, false},
		"EmptyCopy":        {func(d *letter.Draft) { d.CC = []string{""} }, false},
		"SubjectNotUTF8":   {func(d *letter.Draft) { d.Subject = "\xff" }, false},
		"TextNotUTF8":      {func(d *letter.Draft) { d.Text = []byte("\xff") }, false},
		"BeforeTime":       {func(d *letter.Draft) { d.Time = time.Unix(-1, 0) }, false},
		"FirstSecond":      {func(d *letter.Draft) { d.Time = time.Unix(0, 0) }, true},
		"LastSecond":       {func(d *letter.Draft) { d.Time = time.Unix(1<<32-1, 0) }, true},
		"AfterTime":        {func(d *letter.Draft) { d.Time = time.Unix(1<<32, 0) }, false},
		"NamelessFile":     {func(d *letter.Draft) { d.Attachments[0].Name = "dir/" }, false},
		"LongestFileName":  {func(d *letter.Draft) { d.Attachments[0].Name = long }, true},
		"LongFileName":     {func(d *letter.Draft) { d.Attachments[0].Name = long + "x" }, false},
		"FileNameWithANUL": {func(d *letter.Draft) { d.Attachments[0].Name = "a\x00b" }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := draft()
			tt.change(d)
			_, err := d.Seal(alice, bob, key(t, 1).Public())
			if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, letter.ErrField) {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := draft().Seal(alice, bob, crypt.PublicKey{}); !errors.Is(err, crypt.ErrPublicKey) {
		t.Errorf("sealing to no key: %v", err)
	}
}

// What leaves is a name and never a path, in the one normal form.
func TestDraft_Seal_FileNames(t *testing.T) {
	names := map[string]string{
		"/home/alice/secret plans/a.txt": "a.txt",
		"../../x":                        "x",
		"Gru\u0308ße":                    "Grüße",
		"bad\xffbytes":                   "bad\uFFFDbytes",
	}
	k := key(t, 1)
	for given, want := range names {
		d := draft()
		d.Attachments = []letter.Attachment{attachment(given, "x")}
		l, err := open(seal(t, d, k.Public()), k)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Attachments[0].Name; got != want {
			t.Errorf("%q was sent as %q, want %q", given, got, want)
		}
	}
}

// A file of 64 MiB goes out and comes in again without ever being in memory.
func TestConstantMemory(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(path, []byte("begin"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := letter.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	message, k := temp(t), key(t, 1)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d := &letter.Draft{Time: now, Attachments: []letter.Attachment{f.Attachment()}}
	m, err := d.Seal(alice, bob, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WriteTo(message); err != nil {
		t.Fatal(err)
	}
	l, err := openFile(t, message, k)
	if err != nil {
		t.Fatal(err)
	}
	name, err := letter.Save(dir, l.Attachments[0])
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 4<<20 {
		t.Errorf("allocated %d KiB for a file of %d KiB", spent>>10, size>>10)
	}
	if info, err := dir.Stat(name); err != nil || info.Size() != size {
		t.Errorf("saved %v, %v", info, err)
	}
}
