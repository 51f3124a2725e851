//go:build unix

package terminal

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// suspendable lets Ctrl-Z stop the process while a password is asked for, with the terminal
// as it was, and asks again when it goes on. It ends with the function that it returns.
func suspendable(fd int, shown *term.State, out io.Writer, prompt string) (end func()) {
	stops, goesOn := make(chan os.Signal, 1), make(chan os.Signal, 1)
	done, ended := make(chan struct{}), make(chan struct{})
	signal.Notify(stops, syscall.SIGTSTP)
	signal.Notify(goesOn, syscall.SIGCONT)
	go func() {
		defer close(ended)
		for {
			select {
			case <-stops:
			case <-done:
				return
			}
			hidden, err := term.GetState(fd)
			if err != nil || term.Restore(fd, shown) != nil {
				continue // stopped now, it would leave a terminal that shows nothing
			}
			select {
			case <-goesOn: // of an earlier time
			default:
			}
			if syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) == nil {
				<-goesOn // another thread may be the one that is stopped first
			}
			_ = term.Restore(fd, hidden) // in the background this stops until it is in front again
			_, _ = io.WriteString(out, "\n"+prompt)
		}
	}()
	return func() {
		signal.Stop(stops)
		signal.Stop(goesOn)
		close(done)
		<-ended
	}
}
