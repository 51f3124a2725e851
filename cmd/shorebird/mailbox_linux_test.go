package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/terminal"
)

// A reader is a machine that has alice's keys, and a real server.
type reader struct {
	t       *testing.T
	program string
	env     []string
	key     crypt.PublicKey
	server  string
	log     []byte // of the letters that a stranger hands in
}

// newReader starts a server on a port of its own choice, and brings alice's keys to a machine.
func newReader(t *testing.T, site *cmtptest.Site) (*reader, *cmtptest.Daemon) {
	t.Helper()
	site.AddUsers(t, "alice")
	d := site.Start(t)
	program, err := exec.LookPath("shorebird")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	password := filepath.Join(home, "password")
	if err := os.WriteFile(password, []byte(cmtptest.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(home, ".config", "shorebird")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("account = %q\nserver = %q\n", atHome, d.Shared[0])
	if err := os.WriteFile(filepath.Join(config, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, program: program, server: d.Shared[0],
		env: []string{"HOME=" + home, "PATH=/usr/bin:/bin", "TZ=UTC", "SHOREBIRD_PASSWORD_FILE=" + password}}
	r.must("recover", atHome)
	ch := r.channel()
	defer ch.Close()
	h, err := ch.History(r.alice())
	if err != nil {
		t.Fatal(err)
	}
	r.key = h.Current().Key
	return r, d
}

func (r *reader) alice() address.Address {
	a, err := address.Parse(atHome)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *reader) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.program, args...)
	cmd.Env = r.env
	return cmd
}

func (r *reader) must(args ...string) string {
	r.t.Helper()
	cmd := r.command(args...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil {
		r.t.Fatalf("%q: %v\n%s%s", args, e, out.String(), err.String())
	}
	return out.String()
}

// at runs a command at a terminal of so many columns, with more in its environment, and returns what is shown.
func (r *reader) at(columns int, env []string, args ...string) string {
	r.t.Helper()
	line := append([]string{"-i"}, append(append(r.env, env...), "sh", "-c", fmt.Sprintf(`stty cols %d && exec "$0" "$@"`, columns), r.program)...)
	term := cmtptest.RunInTerminal(r.t, nil, "env", append(line, args...)...)
	status, shown := term.Ends(r.t)
	if status != 0 {
		r.t.Fatalf("%q ended with %d and shows %q", args, status, shown)
	}
	return strings.ReplaceAll(shown, "\r\n", "\n")
}

// channel speaks to the server as a stranger.
func (r *reader) channel() *client.Channel {
	r.t.Helper()
	dialer := client.Dialer{Timeout: patience}
	_, ch, err := dialer.Open(r.t.Context(), r.server, true)
	if err != nil {
		r.t.Fatal(err)
	}
	ch.Accept()
	return ch
}

// part is a sealed part.
type part []byte

func (p part) Size() int64 { return int64(len(p)) }

func (p part) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p)
	return int64(n), err
}

// gets hands in a letter by a stranger's client, which holds to nothing but the protocol.
func (r *reader) gets(b *cmtp.Body, attachments ...string) {
	r.t.Helper()
	plain, err := b.Append(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	seal := func(plain []byte) cmtp.Part {
		box, err := crypt.Seal(nil, plain, r.key)
		if err != nil {
			r.t.Fatal(err)
		}
		return part(box)
	}
	var files []cmtp.Part
	for _, name := range attachments {
		files = append(files, seal([]byte(name+"\x00data")))
	}
	ch := r.channel()
	defer ch.Close()
	h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "alice", DestinationDomain: cmtptest.Domain,
		SourceAccount: "mallory", SourceDomain: "other.example"}
	if _, err := ch.Send(h, r.log, seal(plain), files); err != nil {
		r.t.Fatal(err)
	}
}

// hostile is what a terminal would obey: colours and titles, a link to somewhere else, text that runs the other
// way, and lines of their own.
const hostile = "\x1b[2J\x1b]0;title\a\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\ \u202Egnp.exe\u202C \u2066x\u2069 \u0085\u2028\r\nFrom  boss@example.org\x9b31m"

// Nothing of a letter steers a terminal, in whichever field it stands; what a stranger wrote stays in its line, and
// nothing that it says can look as if the program said it.
func TestRead_Hostile(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	r, d := newReader(t, site)
	subject := strings.Repeat("long ", 200) + strings.Repeat("\u3000\u2800 ", 300) + "Proof  submitted by boss@example.org"
	valid := strings.ToValidUTF8(hostile, "?")
	r.gets(&cmtp.Body{Time: 1_800_000_000, Subject: valid + subject, ReplyTo: valid, CC: []string{valid, "b@" + valid}, Text: []byte(valid + "\nthe text\n")},
		"plan"+valid+".txt", strings.Repeat("n", 200)+valid)
	r.gets(&cmtp.Body{Time: 1, Subject: "Zoë" + strings.Repeat("\u0301", 5000) + strings.Repeat("漢", 100), Text: []byte("two")})

	for _, columns := range []int{40, 60, 100} {
		list := r.at(columns, []string{"NO_COLOR=1"}, "list")
		harmless(t, list, "\n", columns)
		lines := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
		if len(lines) != 2 || !regexp.MustCompile(`^2  N     \w+ \d\d( +\S+)?  unproven  mal`).MatchString(lines[0]) || !strings.HasPrefix(lines[1], "1  N  +") {
			t.Errorf("at %d columns:\n%s", columns, list)
		}
		shown := r.at(columns, []string{"TERM=xterm"}, "read", "1", "--keep-unseen", "--offline")
		shown, ended := strings.CutSuffix(shown, "\n\x1b[2m-- end of message 1 --\x1b[0m\n")
		if !ended {
			t.Errorf("the end is not told:\n%s", shown)
		}
		head, text, _ := strings.Cut(shown+"\n", "\n\n")
		harmless(t, head, "\n", columns)
		harmless(t, text, "\n", 0)
		if n := len(regexp.MustCompile(`(?m)^(From|Proof) `).FindAllString(head, -1)); n != 2 || !strings.Contains(head, "mallory@other.example") || !strings.Contains(text, "\nthe text\n") {
			t.Errorf("%d lines that say who it is from, at %d columns:\n%s", n, columns, shown)
		}
	}
	// A file gets no colour, whole lines, and nothing that steers either.
	out := r.must("read", "1", "--keep-unseen", "--offline")
	if !strings.HasSuffix(out, "\nthe text\n-- end of message 1 --\n") {
		t.Errorf("it ends otherwise: %q", out)
	}
	harmless(t, strings.ReplaceAll(out, "\n", ""), "", 0)
	harmless(t, strings.ReplaceAll(r.must("list", "--json"), "\n", ""), "", 0)
	save := filepath.Join(t.TempDir(), "saved")
	harmless(t, strings.ReplaceAll(r.must("save", "1", "--to", save), "\n", ""), "", 0)
	if all, err := filepath.Glob(filepath.Join(save, "*")); err != nil || len(all) != 2 {
		t.Errorf("saved %q, %v", all, err)
	}
	d.Stop(t)
}

// A letter that is longer than the screen goes through the user's pager, broken between words and fit to show, and is read by that.
func TestRead_Pager(t *testing.T) {
	r, d := newReader(t, cmtptest.NewSite(t, nil))
	r.gets(&cmtp.Body{Time: 1, Subject: "long", Text: []byte("\x1b[2Jat the beginning " + strings.Repeat("the same words again and ", 100) + "\nthe end\n")})
	r.must("list")
	seen := filepath.Join(t.TempDir(), "seen")
	pager := "PAGER=cat >" + seen + "; echo secure=$LESSSECURE"
	short := r.at(80, []string{pager}, "read", "1", "--keep-unseen") // at a terminal that does not say how high it is
	if !strings.Contains(short, "\nthe end\n") || strings.Contains(short, "secure=") {
		t.Errorf("shows %q", short)
	}
	term := cmtptest.RunInTerminal(t, nil, "env", append(append([]string{"-i"}, append(r.env, pager)...), "sh", "-c", `stty cols 60 rows 12 && exec "$0" read 1`, r.program)...)
	status, shown := term.Ends(t)
	text, err := os.ReadFile(seen)
	if status != 0 || shown != "secure=1\r\n" || err != nil || !strings.Contains(string(text), "\nthe end\n") || !strings.HasPrefix(string(text), "From ") {
		t.Fatalf("it ended with %d, %v and shows %q and\n%s", status, err, shown, text)
	}
	harmless(t, strings.ReplaceAll(strings.ReplaceAll(string(text), "\x1b[2m", ""), "\x1b[0m", ""), "\n", 60)
	if list := r.must("list", "--unseen"); list != "No messages.\n" {
		t.Errorf("it is new still: %s", list)
	}
	d.Stop(t)
}

// harmless checks that what is shown steers nothing, and that no line is longer than the terminal is wide.
func harmless(t *testing.T, shown, allowed string, columns int) {
	t.Helper()
	for i, c := range shown {
		if strings.ContainsRune(allowed, c) {
			continue
		}
		if c < ' ' || 0x7f <= c && c < 0xa0 || 0x202a <= c && c <= 0x202e || 0x2066 <= c && c <= 0x2069 || c == 0x2028 || c == 0x2029 {
			t.Fatalf("%U is shown: %q", c, shown[max(0, i-20):min(len(shown), i+20)])
		}
	}
	for line := range strings.Lines(shown) {
		if n := uniseg.StringWidth(strings.TrimSuffix(line, "\n")); columns > 0 && n >= columns || len(line) > 1000 && columns > 0 {
			t.Errorf("%d columns of %d: %q", n, columns, line)
		}
	}
}

// Words have a colour at a terminal, never instead of the word, and none where the user wants none.
func TestList_Colour(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	r, d := newReader(t, site)
	cmd := r.command("send", atHome, "-s", "To me")
	cmd.Stdin = strings.NewReader("text\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	coloured := regexp.MustCompile(`\x1b\[32m(proven|vouched)\x1b\[0m +alice`)
	if shown := r.at(80, []string{"TERM=xterm"}, "list"); !coloured.MatchString(shown) {
		t.Errorf("shows %q", shown)
	}
	r.log = []byte("sender a=mallory\x00")
	r.gets(&cmtp.Body{Time: 1, Subject: "From your bank", Text: []byte("x")})
	if shown := r.at(80, []string{"TERM=xterm"}, "list"); !strings.Contains(shown, "  \x1b[1;31mFALSE\x1b[0m     mallory") {
		t.Errorf("shows %q", shown)
	}
	if out := r.must("read", "2"); !regexp.MustCompile(`(?m)^WARNING +FALSE: .*do not believe`).MatchString(out) {
		t.Errorf("shows %q", out)
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if shown := r.at(80, []string{env}, "list", "--offline"); strings.Contains(shown, "\x1b") || !regexp.MustCompile(`  (proven|vouched) +alice`).MatchString(shown) {
			t.Errorf("with %s it shows %q", env, shown)
		}
	}
	d.Stop(t)
}

// Tags stand where no stranger's words can, and leave the line as long as it was.
func TestList_Tags(t *testing.T) {
	r, d := newReader(t, cmtptest.NewSite(t, nil))
	r.gets(&cmtp.Body{Time: 1, Subject: "[paid] of " + strings.Repeat("long ", 50), Text: []byte("x")})
	r.gets(&cmtp.Body{Time: 1, Subject: "other", Text: []byte("x")})
	r.must("list")
	r.must("flag", "1", "--tag", "work", "--tag", strings.Repeat("漢\u202e", 5))
	for columns, want := range map[int]string{40: `^1  N     \w+ \d\d  unproven `, 60: `^1  N     \w+ \d\d [\d:]+  \[work,…  unproven  `, 200: `^1  N     \w+ \d\d [\d:]+  \[work, (漢\x{fffd}){5}\]  unproven  `} {
		shown := r.at(columns, []string{"NO_COLOR=1"}, "list", "--offline")
		_, shown, _ = strings.Cut(shown, "\n") // behind what is said of the copy
		harmless(t, shown, "\n", columns)
		lines := strings.Split(shown, "\n")
		if !regexp.MustCompile(want).MatchString(lines[1]) || strings.Contains(lines[0], "[") || len(lines) != 3 {
			t.Errorf("at %d columns:\n%s", columns, shown)
		}
	}
	d.Stop(t)
}

// A desktop is a keyring in memory.
type desktop map[string]string

func (d desktop) Get(_, user string) (string, error) { return d[user], nil }

func (d desktop) Set(_, user, secret string) error {
	d[user] = secret
	return nil
}

func (d desktop) Delete(_, user string) error {
	delete(d, user)
	return nil
}

// A shell is offered the numbers of messages, with their subjects, where the desktop has the keys: nobody is asked.
func TestComplete(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	r, d := newReader(t, site)
	r.gets(&cmtp.Body{Time: 1, Subject: "first\tone\x1b[1m", Text: []byte("x")})
	r.gets(&cmtp.Body{Time: 1, Subject: "second", Text: []byte("x")})
	env := map[string]string{}
	for _, e := range r.env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	app := &shorebird.App{Getenv: func(name string) string { return env[name] }, Now: time.Now, Desktop: desktop{}, Params: cheap, Least: cheap}
	run := func(args ...string) string {
		var out, said bytes.Buffer
		app.Terminal = terminal.Terminal{In: strings.NewReader(""), Out: &out, Err: &said}
		if status := app.Run(t.Context(), args); status != 0 {
			t.Fatalf("%q ended with %d: %s", args, status, said.String())
		}
		return out.String()
	}
	run("recover", atHome)
	run("list")
	delete(env, "SHOREBIRD_PASSWORD_FILE")
	want := "2\tsecond\n1\tfirst one\ufffd[1m\n:4\n"
	for _, verb := range []string{"read", "save", "delete", "flag"} {
		if got := run("__complete", verb, ""); !strings.HasSuffix(got, want) {
			t.Errorf("%s is offered %q", verb, got)
		}
	}
	if got := run("__complete", "read", "1", ""); got != ":4\n" {
		t.Errorf("a second number is offered: %q", got)
	}
	app.Desktop = nil
	if got := run("__complete", "read", ""); got != ":4\n" {
		t.Errorf("without a keyring %q is offered", got)
	}
	d.Stop(t)
}

// Another server in the place of the right one is told of, and nothing is asked of it; what is here can be read.
func TestList_OtherServer(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	r, d := newReader(t, site)
	r.gets(&cmtp.Body{Time: 1, Subject: "before", Text: []byte("x")})
	r.must("sync")
	path := filepath.Join(strings.TrimPrefix(r.env[0], "HOME="), ".local/share/shorebird/servers.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`"key": "[^"]*"`)
	other := `"key": "` + base64.StdEncoding.EncodeToString(r.key[:]) + `"`
	if err := os.WriteFile(path, key.ReplaceAll(text, []byte(other)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.gets(&cmtp.Body{Time: 1, Subject: "after", Text: []byte("x")})
	for _, args := range [][]string{{"list"}, {"read", "1"}, {"search", "before"}, {"sync"}, {"watch"}} {
		cmd := r.command(args...)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		cmd.Run()
		shown := strings.Contains(out.String(), "before") == (len(args) > 1 || args[0] == "list")
		if cmd.ProcessState.ExitCode() != 4 || !strings.Contains(said.String(), "the server's key has changed") || !shown || strings.Contains(out.String(), "after") {
			t.Errorf("%q ended with %d: %s%s", args, cmd.ProcessState.ExitCode(), out.String(), said.String())
		}
	}
	d.Stop(t)
}

// What comes is told once, in a line each, also over a connection that was lost meanwhile.
func TestWatch(t *testing.T) {
	// The port is the same one after a restart.
	site := cmtptest.NewSite(t, cmtptest.Settings{"listen.addresses": fmt.Sprintf(`["%s:2525"]`, cmtptest.Loopback())})
	r, d := newReader(t, site)
	r.gets(&cmtp.Body{Time: 1, Subject: "before", Text: []byte("x")})
	r.must("sync")
	cmd := r.command("watch", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer stop.Stop()
	lines := bufio.NewScanner(out)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), `"subject": "`+want+`"`) || !strings.HasPrefix(lines.Text(), "{") || !strings.HasSuffix(lines.Text(), "}") {
			t.Fatalf("got %q, want a line about %q\n%s", lines.Text(), want, said.String())
		}
	}
	r.gets(&cmtp.Body{Time: 1, Subject: "one", Text: []byte("x")})
	next("one")
	r.gets(&cmtp.Body{Time: 1, Subject: "two", Text: []byte("x")})
	next("two")
	d.Stop(t)
	d = site.Start(t)
	r.gets(&cmtp.Body{Time: 1, Subject: "three", Text: []byte("x")})
	next("three")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Errorf("more: %q", lines.Text())
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("ended with %v", err)
	}
	d.Stop(t)
}
