package shorebird_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/terminal"
	"cmtpd/internal/version"
	"cmtpd/internal/xzibit"
)

// Exit statuses, as they are promised.
const (
	ok          = 0
	failure     = 1
	usage       = 2
	refused     = 3
	trust       = 4
	password    = 5
	temporary   = 75
	interrupted = 130
)

const (
	alice  = "alice@example.org"
	bob    = "bob@example.org"
	carol  = "carol@example.org"
	nobody = "nobody@example.org"
	secret = "correct horse"
)

// A person runs the program on a machine of its own.
type person struct {
	t        *testing.T
	app      *shorebird.App
	env      map[string]string
	dir      string
	out, err bytes.Buffer // of the last run
}

func newPerson(t *testing.T) *person {
	dir := t.TempDir()
	p := &person{t: t, dir: dir, env: map[string]string{
		"HOME": filepath.Join(dir, "home"), "XDG_DATA_HOME": filepath.Join(dir, "data"), "XDG_CONFIG_HOME": filepath.Join(dir, "config"),
	}}
	p.app = &shorebird.App{
		Terminal: terminal.Terminal{In: strings.NewReader(""), Out: &p.out, Err: &p.err},
		Getenv:   func(name string) string { return p.env[name] },
		Least:    cheap,
		Now:      func() time.Time { return time.Unix(1_800_000_000, 0) },
	}
	return p
}

// run runs a command line with this on standard input.
func (p *person) run(stdin string, args ...string) int {
	p.t.Helper()
	return p.runContext(p.t.Context(), strings.NewReader(stdin), args...)
}

func (p *person) runContext(ctx context.Context, stdin io.Reader, args ...string) int {
	p.t.Helper()
	p.out.Reset()
	p.err.Reset()
	p.app.In = stdin
	return p.app.Run(ctx, args)
}

// want runs a command line, and fails the test when it ends otherwise or says
// nothing of each of the words.
func (p *person) want(code int, stdin string, args []string, words ...string) {
	p.t.Helper()
	if got := p.run(stdin, args...); got != code {
		p.t.Fatalf("%q ended with %d, want %d\n%s%s", args, got, code, p.out.String(), p.err.String())
	}
	for _, w := range words {
		if !strings.Contains(p.out.String()+p.err.String(), w) {
			p.t.Errorf("%q does not say %q:\n%s%s", args, w, p.out.String(), p.err.String())
		}
	}
}

// json decodes what the last run printed.
func (p *person) json(v any) {
	p.t.Helper()
	if err := json.Unmarshal(p.out.Bytes(), v); err != nil {
		p.t.Fatalf("%v in %s", err, p.out.String())
	}
}

// data returns a file of the program's.
func (p *person) data(name string) string { return filepath.Join(p.dir, "data", "shorebird", name) }

func (p *person) configure(text string) {
	p.t.Helper()
	dir := filepath.Join(p.dir, "config", "shorebird")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	p.write(filepath.Join(dir, "config.toml"), text)
}

func (p *person) write(path, text string) string {
	p.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// A house is a server with users, whose secrets the test knows.
type house struct {
	*clienttest.Server
	keys map[string]*crypt.PrivateKey
}

func newHouse(t *testing.T, users ...string) *house {
	h := &house{clienttest.NewServer(t), map[string]*crypt.PrivateKey{}}
	for _, u := range users {
		h.keys[u] = clienttest.Key(t)
		h.Users[u] = clienttest.User{Key: h.keys[u].Public(), Xzibit: seal(t, u, h.Key.Public(), h.keys[u])}
	}
	return h
}

// seal returns an xzibit that costs a test little.
func seal(t *testing.T, addr string, server crypt.PublicKey, keys ...*crypt.PrivateKey) []byte {
	t.Helper()
	ring := &xzibit.Keyring{Server: server}
	for _, k := range keys {
		ring.Keys = append(ring.Keys, xzibit.KeyPair{Key: k, Made: time.Unix(1, 0)})
	}
	x, err := xzibit.Seal(ring, addr, []byte(secret), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (h *house) sent(v cmtp.Verb) int {
	n := 0
	for _, got := range h.Verbs() {
		if got == v {
			n++
		}
	}
	return n
}

func b64(k crypt.PublicKey) string { return base64.StdEncoding.EncodeToString(k[:]) }

func TestApp_Run_Usage(t *testing.T) {
	p := newPerson(t)
	tests := map[string]struct {
		args []string
		word string
	}{
		"UnknownCommand":  {[]string{"frobnicate"}, `shorebird has no command "frobnicate"` + "\n"},
		"CommandMeant":    {[]string{"lsit"}, "did you mean shorebird list?\n"},
		"UnknownFlag":     {[]string{"keys", "--frobnicate", bob}, "shorebird keys has no flag --frobnicate\n"},
		"FlagMeant":       {[]string{"list", "--flaged"}, "did you mean --flagged?\n"},
		"FlagBegun":       {[]string{"outbox", "send", "--aga"}, "shorebird outbox send has no flag --aga; did you mean --again?\n"},
		"ShortFlag":       {[]string{"send", "-x", bob}, "shorebird send has no flag -x\n"},
		"NoValue":         {[]string{"send", bob, "-s"}, "--subject needs a value behind it: --subject SUBJECT\n"},
		"NoNumber":        {[]string{"list", "-n", "many"}, "--number: \"many\" is no whole number\n"},
		"NoTime":          {[]string{"list", "--timeout", "1"}, "--timeout: \"1\" is no time such as 30s"},
		"NoBool":          {[]string{"list", "--json=maybe"}, "--json: \"maybe\" is neither true nor false\n"},
		"NoFlag":          {[]string{"list", "--=x"}, "\"--=x\" is no flag\n"},
		"Apart":           {[]string{"list", "--all", "-n", "5"}, "--all and --number do not go together\n"},
		"NoAddress":       {[]string{"keys"}, "the argument ADDRESS is missing: shorebird keys ADDRESS\n"},
		"OneOfTwo":        {[]string{"forward", "1"}, "the argument ADDRESS is missing: shorebird forward N ADDRESS...\n"},
		"TwoAddresses":    {[]string{"keys", bob, carol}, "the argument \"" + carol + "\" is one too many: shorebird keys ADDRESS\n"},
		"NoneTaken":       {[]string{"list", "5"}, "the argument \"5\" is one too many: shorebird list\n"},
		"OneMayBe":        {[]string{"passwd", bob, carol}, "the argument \"" + carol + "\" is one too many: shorebird passwd [ADDRESS]\n"},
		"Completion":      {[]string{"completion", "bash", "now"}, "the argument \"now\" is one too many: shorebird completion bash\n"},
		"BadAddress":      {[]string{"keys", "bob", "--server", "localhost:1"}, "no @"},
		"BadRecipient":    {[]string{"send", bob, "bob", "--from", alice, "--server", "localhost:1"}, "no @"},
		"BadSource":       {[]string{"send", bob, "--from", "alice", "--server", "localhost:1"}, "--from"},
		"NoSource":        {[]string{"send", bob, "--server", "localhost:1"}, "--from ADDRESS"},
		"NoServer":        {[]string{"keys", bob}, "--server HOST:PORT"},
		"NoPort":          {[]string{"keys", bob, "--server", "localhost"}, "HOST:PORT"},
		"NoHost":          {[]string{"keys", bob, "--server", ":25"}, "names no host"},
		"BadPort":         {[]string{"keys", bob, "--server", "localhost:smtp"}, "HOST:PORT"},
		"ForgetAndAsk":    {[]string{"keys", bob, "--forget", "example.org"}, "keys"},
		"ForgetNoDomain":  {[]string{"keys", "--forget", "no domain"}, "domain"},
		"TwoFromOneInput": {[]string{"open", "-", "--password-stdin"}, "standard input"},
		"NamesCommand":    {[]string{"outbox", "drop"}, "see shorebird outbox drop --help"},
		"NamesNoCommand":  {[]string{"frobnicate"}, "see shorebird --help, or"},
		"UnknownOutbox":   {[]string{"outbox", "sned"}, "sned"},
		"UnknownTrust":    {[]string{"--json", "trust", "lsit"}, "lsit"},
		"UnknownDrafts":   {[]string{"drafts", "--json", "edti", "2"}, "edti"},
		"BadNumber":       {[]string{"list", "-n", "0"}, "see shorebird list --help"},
		"SaveNowhere":     {[]string{"save", "1"}, "--to ."},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.want(usage, "", tt.args, tt.word)
			if p.out.Len() > 0 {
				t.Errorf("printed %q as if it were a result", p.out.String())
			}
		})
	}
}

func TestApp_Run_Help(t *testing.T) {
	p := newPerson(t)
	p.want(ok, "", nil, "shorebird sends and opens mail")
	p.want(ok, "", []string{"help", "exit-codes"}, "the server refused", "75", "130")
	p.want(ok, "", []string{"version"}, "shorebird "+version.Number)
	p.want(ok, "", []string{"version", "--json"})
	var v shorebird.VersionReport
	p.json(&v)
	if v.Version != version.Number || v.Go == "" {
		t.Errorf("got %+v", v)
	}
}

// Errors are one JSON object on standard error where JSON was asked for.
func TestApp_Run_JSONError(t *testing.T) {
	p := newPerson(t)
	p.want(usage, "", []string{"keys", bob, "--json"})
	var got struct {
		Error, Hint string
		Code        int
	}
	if err := json.Unmarshal(p.err.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, p.err.String())
	}
	if got.Code != usage || !strings.Contains(got.Error, "no server is known") || !strings.Contains(got.Hint, "--server") {
		t.Errorf("got %+v", got)
	}
}

func TestApp_Run_NoHome(t *testing.T) {
	p := newPerson(t)
	p.env = map[string]string{"XDG_DATA_HOME": "relative"}
	p.want(failure, "", []string{"keys", bob, "--server", "localhost:1"}, "no home directory", "Set HOME")
}

func TestApp_Run_Config(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	quoted := `"` + where + `"`
	tests := map[string]struct {
		config string
		code   int
		word   string
	}{
		"Server":         {"server = " + quoted, ok, ""},
		"ServerOfDomain": {"server = \"localhost:1\"\n[servers]\n\"Example.ORG\" = " + quoted, ok, ""},
		"OtherDomain":    {"[servers]\n\"example.net\" = " + quoted, usage, "no server is known for example.org"},
		"Empty":          {"", usage, "no server is known"},
		"UnknownKey":     {"sever = " + quoted, failure, "unknown key sever"},
		"UnknownTable":   {"[domains]\nx = 1", failure, "unknown key domains"},
		"NotTOML":        {"server", failure, "config.toml"},
		"WrongType":      {"server = 25", failure, "server"},
		"BadServer":      {"server = \"localhost\"", failure, "server: \"localhost\" is not HOST:PORT"},
		"BadServers":     {"[servers]\n\"example.org\" = \"x\"", failure, "is not HOST:PORT"},
		"BadDomain":      {"[servers]\n\"no domain\" = " + quoted, failure, "no domain"},
		"BadAccount":     {"account = \"bob\"", failure, "no @"},
		"TooLarge":       {"#" + strings.Repeat("x", 1<<20), failure, "more than the limit of 1048576"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t)
			p.configure(tt.config)
			p.want(tt.code, "", []string{"keys", bob}, tt.word)
		})
	}
}
