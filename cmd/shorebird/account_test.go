package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/cmtptest"
)

// suite runs the tests with what cmtptest needs around them.
type suite struct{ *testing.M }

func (s suite) Run() int { return cmtptest.Main(s.M) }

// TestAccount runs the scripts of testdata/account: what people do with their accounts,
// at a real cmtpd, which $SERVER is. Beside the commands of TestScript there are
//
//	serve              start the daemon with cmtpd.toml
//	halt               stop it
//	machine NAME       go on at another machine: a home of its own
//	field FILE NAME    print the value of a field of the JSON in FILE, or stdout, to $NAME
func TestAccount(t *testing.T) {
	program := cmtptest.Release(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/account", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", e.Getenv("PATH")+string(os.PathListSeparator)+filepath.Dir(program))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_RUNTIME_DIR", "")
			e.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
			e.Values[daemonKey{}] = &script{program: program}
			return os.WriteFile(filepath.Join(e.WorkDir, "cmtpd.toml"), []byte(cmtptest.Settings{
				"limits.guess_burst": "1000", "limits.guess_rate": "1000",
			}.TOML()), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "mode": mode, "serve": serve, "halt": halt, "machine": machine, "field": field,
		},
	})
}

type script struct {
	program string
	daemon  *cmtptest.Daemon
}

type daemonKey struct{}

const patience = time.Minute

func serve(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := ts.Value(daemonKey{}).(*script)
	d, err := cmtptest.Launch(ctx, s.program, ts.MkAbs("cmtpd.toml"))
	ts.Check(err)
	s.daemon = d
	ts.Defer(d.Kill)
	ts.Setenv("SERVER", d.Shared[0])
	configure(ts)
}

func halt(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := ts.Value(daemonKey{}).(*script).daemon
	ts.Check(d.Terminate())
	ts.Check(d.Wait(ctx))
}

func machine(ts *testscript.TestScript, _ bool, args []string) {
	home := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(home, 0o700))
	ts.Setenv("HOME", home)
	configure(ts)
}

// configure tells the program on this machine of the server.
func configure(ts *testscript.TestScript) {
	dir := filepath.Join(ts.Getenv("HOME"), ".config", "shorebird")
	ts.Check(os.MkdirAll(dir, 0o700))
	text := "account = \"alice@example.org\"\nserver = \"" + ts.Getenv("SERVER") + "\"\n"
	ts.Check(os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o600))
}

func field(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == `"`+args[1]+`"` {
			ts.Setenv(args[1], strings.Trim(value, `",`))
			return
		}
	}
	ts.Fatalf("%s has no %s", args[0], args[1])
}
