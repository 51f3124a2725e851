package cmtptest

import (
	"bufio"
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A Screen is what a person sees of a shell: tmux(1) obeys what programs write as a real terminal does.
type Screen struct {
	socket string
	// changed has something when the shell or a program in it has written since.
	changed chan struct{}
}

// RunInTmux starts a shell on a screen of so many columns and lines, with an environment of its own and "$ " as its
// prompt.
func RunInTmux(t testing.TB, columns, lines int, env []string) *Screen {
	t.Helper()
	Need(t, "tmux")
	s := &Screen{filepath.Join(t.TempDir(), "tmux"), make(chan struct{}, 1)}
	shell := append([]string{"-f", "/dev/null", "-u", "new-session", "-d", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(lines), "--",
		"env", "-i"}, append(env, "TERM=screen", "PS1=$ ", "sh", "-i")...)
	s.tmux(t, shell...)
	t.Cleanup(func() { s.tmux(t, "kill-server") })
	// A second client, which is a program: it is told of all that is written (tmux(1), CONTROL MODE).
	watch := exec.Command("tmux", "-S", s.socket, "-C", "attach", "-f", "read-only,ignore-size")
	in, err := watch.StdinPipe() // it leaves when that ends
	check(t, err)
	out, err := watch.StdoutPipe()
	check(t, err)
	check(t, watch.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for said := bufio.NewScanner(out); said.Scan(); {
			select {
			case s.changed <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-read
		watch.Wait()
	})
	return s
}

// tmux gives the server a command, and returns what it answers.
func (s *Screen) tmux(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// Type types text.
func (s *Screen) Type(t testing.TB, text string) {
	t.Helper()
	s.tmux(t, "send-keys", "-l", "--", text)
}

// Press presses keys by their names in tmux(1): Enter, C-c, Space.
func (s *Screen) Press(t testing.TB, keys ...string) {
	t.Helper()
	s.tmux(t, append([]string{"send-keys", "--"}, keys...)...)
}

// Enter types a line.
func (s *Screen) Enter(t testing.TB, line string) {
	t.Helper()
	s.Type(t, line)
	s.Press(t, "Enter")
}

// Shown returns the lines on the screen, without spaces at their ends and empty lines at the screen's.
func (s *Screen) Shown(t testing.TB) string {
	t.Helper()
	return strings.TrimRight(s.tmux(t, "capture-pane", "-p"), "\n")
}

// Shows waits until the screen matches, and returns the match and its groups.
func (s *Screen) Shows(t testing.TB, match string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		shown := s.Shown(t)
		if m := regexp.MustCompile(match).FindStringSubmatch(shown); m != nil {
			return m
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			t.Fatalf("%s does not match the screen:\n%s", match, shown)
		}
	}
}

// Resize makes the screen another one.
func (s *Screen) Resize(t testing.TB, columns, lines int) {
	t.Helper()
	s.tmux(t, "resize-window", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(lines))
}

// Title returns what a program has called the screen.
func (s *Screen) Title(t testing.TB) string {
	t.Helper()
	return strings.TrimSuffix(s.tmux(t, "display-message", "-p", "#{pane_title}"), "\n")
}
