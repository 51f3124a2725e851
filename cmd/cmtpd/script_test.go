package main_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/discovery/dnstest"
)

// TestScript runs testdata/script: the command line as an administrator uses it.
// Beside testscript's own commands there are
//
//	exits STATUS COMMAND...   run a command, which has to end with STATUS
//	serve                     start a daemon with cmtpd.toml; $ADDR is its port
//	halt                      stop it in order ("stop" is testscript's own, and ends the script)
//	keyrequest ADDRESS        ask it for a key; ! for FAILURE
//	letter ACCOUNT BYTES      deliver a message with a body of so many bytes
//	meet DOMAIN NUMBER        judge a server of a domain that shows the key of that number
//	enqueue DOMAIN BYTES      store a message that waits for a server of a domain; $ID is its number
//	publish FILE [DOMAIN...]  put the _cmtp records in FILE, or stdout, into DNS
//	json FILE                 FILE, or stdout, is JSON
//	flip FILE OFFSET          flip a bit; a negative OFFSET counts from the end
//	halves FILE               give a key file another public half
func TestScript(t *testing.T) {
	t.Parallel()
	program := cmtptest.Release(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(program)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Values[daemonKey{}] = &script{program: program}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "serve": serve, "halt": halt, "keyrequest": keyrequest, "letter": sendLetter,
			"meet": meet, "enqueue": enqueue, "publish": publish, "json": isJSON, "flip": flip, "halves": halves,
		},
	})
}

// A script is what a script has running.
type script struct {
	program string
	daemon  *cmtptest.Daemon
	zone    *dnstest.Server
}

type daemonKey struct{}

func running(ts *testscript.TestScript) *script { return ts.Value(daemonKey{}).(*script) }

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// argument checks what a command was called with.
func argument(ts *testscript.TestScript, neg bool, args []string, n int) {
	if neg || len(args) != n {
		ts.Fatalf("usage: %d arguments, without !", n)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	got, err := 0, ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s ended with %d, want %s", args[1], got, args[0])
	}
}

func serve(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 0)
	ctx, cancel := soon()
	defer cancel()
	s := running(ts)
	d, err := cmtptest.Launch(ctx, s.program, ts.MkAbs("cmtpd.toml"))
	ts.Check(err)
	s.daemon = d
	ts.Defer(d.Kill)
	ts.Setenv("ADDR", d.Shared[0])
}

// halt tells the daemon to stop. (A command named stop would end the script, and pass it.)
func halt(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 0)
	ctx, cancel := soon()
	defer cancel()
	d := running(ts).daemon
	ts.Check(d.Terminate())
	ts.Check(d.Wait(ctx))
}

func keyrequest(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] keyrequest ADDRESS")
	}
	ctx, cancel := soon()
	defer cancel()
	c, err := new(client.Dialer).Connect(ctx, running(ts).daemon.Shared[0])
	ts.Check(err)
	defer c.Close()
	server, err := c.ServerKey()
	ts.Check(err)
	account, domain, _ := strings.Cut(args[0], "@")
	key, err := c.Key(account, domain, server)
	switch {
	case neg && !errors.Is(err, client.ErrRefused):
		ts.Fatalf("%s has a key, or: %v", args[0], err)
	case !neg:
		ts.Check(err)
		ts.Logf("%s", key)
	}
}

func sendLetter(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 2)
	length, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ctx, cancel := soon()
	defer cancel()
	l := &cmtptest.Letter{To: args[0], Parts: []cmtptest.Noise{{Seed: uint64(length), Length: length}}}
	ts.Check(cmtptest.Deliver(ctx, running(ts).daemon.Shared[0], l))
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 1)
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 2)
	offset, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[0]))
	if offset < 0 {
		offset += len(b)
	}
	b[offset] ^= 0x10
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func halves(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 1)
	header, line, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	ts.Check(err)
	other, _, err := ed25519.GenerateKey(nil)
	ts.Check(err)
	copy(raw[32:], other)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(header+"\n"+base64.StdEncoding.EncodeToString(raw)+"\n"), 0o600))
}
