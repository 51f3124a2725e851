package cmtptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Terminal is a person's: a program runs in it, and a test types and reads.
type Terminal struct {
	master *os.File
	cmd    *exec.Cmd
	ended  chan error // what Wait said
	shown  log
}

// RunInTerminal starts program in a terminal of its own, which is standard input
// and standard error; standard output goes to out, or there too where that is nil.
func RunInTerminal(t testing.TB, out *bytes.Buffer, program string, args ...string) *Terminal {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{master: master, cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	term.shown.more = make(chan struct{})
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	if out != nil {
		term.cmd.Stdout = out
	}
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // descriptor 0
	if err := term.cmd.Start(); err != nil {
		master.Close()
		slave.Close()
		t.Fatal(err)
	}
	var over atomic.Bool // the program is gone, and an end stands behind what it has shown
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			shown := buf[:n]
			if over.Load() && n > 0 && shown[n-1] == endOfShown {
				term.shown.Write(shown[:n-1])
				return
			}
			term.shown.Write(shown)
			if err != nil {
				return
			}
		}
	}()
	go func() {
		err := term.cmd.Wait()
		// With the last one who has the other end open, what he has written can be lost: a read may fail with EIO before it.
		over.Store(true)
		slave.Write([]byte{endOfShown})
		<-read
		slave.Close()
		term.ended <- err
	}()
	t.Cleanup(func() {
		term.cmd.Process.Kill()
		<-read
		master.Close()
	})
	return term
}

// endOfShown is in no text.
const endOfShown = 0xff

// openTerminal returns both ends of a pseudo-terminal (pty(7)).
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	return master, slave, nil
}

// Answer waits for a question and until nothing that is typed is shown any more,
// and types a line.
func (term *Terminal) Answer(t testing.TB, question, line string) {
	t.Helper()
	term.Asked(t, question)
	term.Type(t, line+"\n")
}

// Asked waits for a question, at the end of what is shown, and for the echo to be
// off.
func (term *Terminal) Asked(t testing.TB, question string) {
	t.Helper()
	term.Shows(t, regexp.MustCompile(regexp.QuoteMeta(question)+`$`))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Nothing tells when a terminal's mode changes; who types waits a moment too.
	for term.Echoes(t) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("what answers %q would be shown", question)
		}
	}
}

// Shows waits until what is shown matches, and returns the match and its groups.
func (term *Terminal) Shows(t testing.TB, match *regexp.Regexp) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		more, shown := term.shown.after(0)
		if m := match.FindStringSubmatch(shown); m != nil {
			return m
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("%v does not match what is shown: %q", match, shown)
		}
	}
}

// Type types.
func (term *Terminal) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := term.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// Echoes reports whether the terminal shows what is typed.
func (term *Terminal) Echoes(t testing.TB) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.master.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

// Stopped waits until the program is stopped, as by Ctrl-Z.
func (term *Terminal) Stopped(t testing.TB) {
	t.Helper()
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, term.cmd.Process.Pid, &info, unix.WSTOPPED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("the program did not stop: %v; it shows %q", err, term.shown.String())
		}
		return
	}
}

// Continue lets a stopped program go on.
func (term *Terminal) Continue(t testing.TB) {
	t.Helper()
	if err := term.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// Ends waits for the program's end and returns its status and all that was shown.
func (term *Terminal) Ends(t testing.TB) (status int, shown string) {
	t.Helper()
	select {
	case <-term.ended:
	case <-time.After(patience):
		t.Fatalf("the program does not end; it shows %q", term.shown.String())
	}
	return term.cmd.ProcessState.ExitCode(), term.shown.String()
}
