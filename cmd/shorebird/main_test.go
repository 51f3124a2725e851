package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/xzibit"
)

func TestMain(m *testing.M) { testscript.Main(suite{m}, map[string]func(){"shorebird": frugal}) }

// frugal is main, but that sealing under a password costs a test little.
func frugal() {
	app := shorebird.System()
	app.Params, app.Least = cheap, cheap
	run(app)
}

var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

const (
	user     = "bob@example.org"
	password = "correct horse"
)

// world is what a script runs in, besides its files.
type world struct {
	server *clienttest.Server
	called chan struct{} // gets one for every connection to the silent server
}

// TestScript runs the command as people do. $SERVER has one user, bob, with the
// password "correct horse"; $SILENT takes connections and says nothing.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			w := &world{clienttest.NewServer(t), make(chan struct{}, 1)}
			key := clienttest.Key(t)
			ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}, Server: w.server.Key.Public()}
			x, err := xzibit.Seal(ring, user, []byte(password), cheap)
			if err != nil {
				return err
			}
			w.server.Users[user] = clienttest.User{Key: key.Public(), Xzibit: x}
			e.Values[world{}] = w
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("FINGERPRINT", key.Public().String())
			e.Setenv("SERVER", w.server.Start(t))
			e.Setenv("SILENT", clienttest.Listen(t, func(c net.Conn) {
				w.called <- struct{}{}
				_, _ = io.Copy(io.Discard, c)
			}))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"interrupt": interrupt,
			"mode":      mode,
			"received":  received,
		},
	})
}

// exits CODE COMMAND... runs a command that has to end with this status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("ended with %d, want %s", got, args[0])
	}
}

// interrupt presses Ctrl-C once the background command has called the silent
// server.
func interrupt(ts *testscript.TestScript, _ bool, _ []string) {
	<-ts.Value(world{}).(*world).called
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(os.Interrupt))
	}
}

// mode MODE FILE checks a file's permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode().String(); got != args[0] {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[0])
	}
}

// received FILE writes to FILE the one message that came.
func received(ts *testscript.TestScript, _ bool, args []string) {
	all := ts.Value(world{}).(*world).server.Messages()
	if len(all) != 1 {
		ts.Fatalf("%d messages came, want 1", len(all))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), all[0], 0o600))
}
