package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/recovery"
)

const (
	guessedPassword = "a guess that is nearly right"
	newPassword     = "the password that dave has now"
	lastPassword    = "the password after his machine was lost"
)

// A life is what has become of two servers and their users: what could be seen, and what nobody should see there.
type life struct {
	*world
	a, b    *realm
	dave    *correspondent
	printed strings.Builder   // by commands
	shown   strings.Builder   // to who watches
	users   map[string][]byte // secrets of theirs, which are not even on the servers' disks
	servers map[string][]byte // which are on those alone
}

// newLife has dave register with an invitation, make mistakes, write to alice at another server, who reads it, change his
// password, come back with his words, and change his key; and the server's operator change the server's.
func newLife(t *testing.T) *life {
	l := &life{world: newWorld(t), users: make(map[string][]byte), servers: make(map[string][]byte)}
	watched := cmtptest.Settings{"metrics.listen": `"127.0.0.1:0"`}
	l.a, l.b = l.realm("a.example", watched), l.realm("b.example", watched)
	l.dave = &correspondent{l.world, l.a, t.TempDir()}
	l.register()
	reader := l.correspondent(l.b)
	l.say(l.dave.run(secretText, "send", "alice@b.example", "--from", "dave@a.example", "-s", secretSubject))
	l.b.await(l.world, "message stored", "alice@b.example")
	out := reader.run("", "list", "--account", "alice@b.example") + reader.run("", "read", "1", "--account", "alice@b.example")
	if !strings.Contains(out, secretText) {
		t.Fatalf("the letter is %s", out)
	}
	l.change()
	l.watch()
	l.rotate()
	l.watch()
	l.a.Stop(t)
	l.b.Stop(t)
	return l
}

// say keeps what a command has printed.
func (l *life) say(out string) { l.printed.WriteString(out) }

func (l *life) register() {
	l.Helper()
	code := strings.TrimSpace(l.a.Must(l, "", "user", "invite", "dave@a.example")) // prints its code, and nothing else does
	l.users["a code"], l.users["a code's secret"] = []byte(code), []byte(strings.ReplaceAll(code, "-", "")[:12])
	l.dave.write("password", newPassword+"\n")
	wrong := "0000-0000-0000" + code[len("0000-0000-0000"):]
	for name, text := range map[string]string{"wrong": wrong, "code": code} {
		l.dave.write(name, text+"\n")
	}
	with := func(file string) map[string]string {
		return map[string]string{"SHOREBIRD_CODE_FILE": filepath.Join(l.dave.home, file)}
	}
	if status, out := l.dave.try("", with("wrong"), "register", "dave@a.example"); status == 0 {
		l.Fatalf("a wrong code: %s", out)
	}
	status, out := l.dave.try("", with("code"), "register", "dave@a.example", "--json")
	var made struct {
		Words string `json:"recovery_words"`
	}
	if err := json.Unmarshal([]byte(out), &made); status != 0 || err != nil || len(strings.Fields(made.Words)) != 12 {
		l.Fatalf("registering: %d, %v, %s", status, err, out)
	}
	l.dave.write("words", made.Words+"\n")
	words := strings.Fields(made.Words)
	for i := range len(words) - 2 { // three in a row are no accident
		l.users[fmt.Sprintf("recovery words from %d on", i)] = []byte(strings.Join(words[i:i+3], " "))
	}
	secret, err := recovery.Parse(made.Words)
	if err != nil {
		l.Fatal(err)
	}
	key, err := secret.Key()
	if err != nil {
		l.Fatal(err)
	}
	l.forms("the recovery key", key, l.users)
	for name, text := range map[string]string{"a guess": guessedPassword, "dave's password": newPassword, "dave's last password": lastPassword,
		"everybody's password": cmtptest.Password, "the subject": secretSubject, "the text": secretText} {
		l.users[name] = []byte(text)
	}
}

func (l *life) forms(name string, key *crypt.PrivateKey, secrets map[string][]byte) {
	for form, text := range forms(key.Bytes()[:32]) {
		secrets[name+form] = text
	}
}

// change has dave guess, take another password, lose his machine, come back with his words, and take another key.
func (l *life) change() {
	l.Helper()
	l.keep("dave's key", newPassword)
	dave := l.dave
	dave.write("password", guessedPassword+"\n"+lastPassword+"\n")
	elsewhere := map[string]string{"HOME": l.TempDir()}
	elsewhere["XDG_CONFIG_HOME"], elsewhere["XDG_DATA_HOME"] = elsewhere["HOME"]+"/config", elsewhere["HOME"]+"/data"
	for _, args := range [][]string{{"recover", "dave@a.example"}, {"recover", "nobody@a.example"}} {
		if status, out := dave.try("", elsewhere, args...); status == 0 {
			l.Fatalf("with a guess: %s", out)
		}
	}
	dave.write("password", newPassword+"\n"+otherPassword+"\n")
	l.say(dave.run("", "passwd", "dave@a.example"))
	l.users["dave's other password"] = []byte(otherPassword)
	dave.write("password", lastPassword+"\n")
	elsewhere["SHOREBIRD_WORDS_FILE"] = filepath.Join(dave.home, "words")
	status, out := dave.try("", elsewhere, "recover", "dave@a.example", "--words")
	if status != 0 {
		l.Fatalf("with the words: %s", out)
	}
	l.say(out)
	status, out = dave.try("", elsewhere, "rotate", "dave@a.example")
	if status != 0 {
		l.Fatalf("another key: %s", out)
	}
	l.say(out)
	l.keep("dave's next key", lastPassword)
}

// keep notes dave's keys as they are now.
func (l *life) keep(name, password string) {
	l.Helper()
	_, ch, err := (&client.Dialer{}).Open(l.Context(), l.a.Shared[0], true)
	if err != nil {
		l.Fatal(err)
	}
	defer ch.Close()
	ch.Accept()
	at, err := address.Parse("dave@a.example")
	if err != nil {
		l.Fatal(err)
	}
	ring, _, err := client.Unseal(ch, at, []byte(password))
	if err != nil {
		l.Fatal(err)
	}
	for i, pair := range ring.Keys {
		l.forms(fmt.Sprintf("%s (%d)", name, i), pair.Key, l.users)
	}
}

// watch keeps what who watches is shown.
func (l *life) watch() {
	for _, r := range []*realm{l.a, l.b} {
		for _, path := range []string{"/", "/metrics", "/readyz"} {
			l.shown.WriteString(get(l.T, "http://"+r.Metrics+path))
		}
	}
}

// rotate changes the server's keys, and makes a backup.
func (l *life) rotate() {
	l.Helper()
	out := l.TempDir()
	l.say(l.a.Must(l, "", "key", "successor", "--out", filepath.Join(out, "successor.key")))
	l.say(l.a.Must(l, "", "backup", filepath.Join(out, "backup")))
	l.a.Line(l, "level=DEBUG") // there is something to search
	l.a.Stop(l)
	l.say(l.a.Log())
	l.keepKey("the former identity", filepath.Join(l.a.Data, "server.key"))
	l.say(l.a.Must(l, "", "key", "rotate", "--now", "--from", filepath.Join(out, "successor.key")))
	l.say(l.a.Must(l, "", "key", "rotate", "--spool"))
	l.say(l.a.Must(l, "", "key", "show", "--json"))
	l.a.again(l.world, nil)
	for name, path := range map[string]string{"the identity": "server.key", "the spool's key": "spool.key"} {
		l.keepKey(name, filepath.Join(l.a.Data, path))
	}
	if err := os.RemoveAll(filepath.Join(out, "successor.key")); err != nil {
		l.Fatal(err)
	}
	searchFiles(l.T, filepath.Join(out, "backup"), l.users)
}

func (l *life) keepKey(name, path string) {
	l.Helper()
	key, err := keyfile.Load(path)
	if err != nil {
		l.Fatal(err)
	}
	l.forms(name, key, l.servers)
}

// search looks for everything everywhere.
func (l *life) search(t *testing.T) {
	t.Helper()
	for _, secrets := range []map[string][]byte{l.users, l.servers} {
		search(t, "the log of a", []byte(l.a.Log()), secrets)
		search(t, "the log of b", []byte(l.b.Log()), secrets)
		search(t, "what was printed", []byte(l.printed.String()), secrets)
		search(t, "what was shown to who watches", []byte(l.shown.String()), secrets)
	}
	if !strings.Contains(l.shown.String(), "cmtpd_sessions_total") || !strings.Contains(l.shown.String(), "<h1") || strings.Contains(l.shown.String(), "dave@") {
		t.Errorf("who watches is shown %s", l.shown.String())
	}
	searchFiles(t, l.a.Data, l.users)
	searchFiles(t, l.b.Data, l.users)
}
