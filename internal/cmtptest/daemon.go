package cmtptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// A Daemon is a running "cmtpd serve".
type Daemon struct {
	Shared   []string // host:port of the ports for both protocols
	CMTPOnly []string // of those for CMTP alone
	Metrics  string   // of the metrics, or ""
	PID      int

	cmd   *exec.Cmd
	log   log
	ended chan struct{} // closed when the process is gone
	err   error         // why it ended, once it has
}

// Launch starts program with a configuration and returns when it serves, or with
// an error that shows its log when it ended before. Its log must be of level info
// or debug.
func Launch(ctx context.Context, program, config string) (*Daemon, error) {
	return LaunchCommand(ctx, exec.Command(program, "serve", "--config", config))
}

// LaunchCommand is Launch for a command that becomes such a process.
func LaunchCommand(ctx context.Context, cmd *exec.Cmd) (*Daemon, error) {
	d := &Daemon{cmd: cmd, ended: make(chan struct{})}
	d.log.more = make(chan struct{})
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.PID = d.cmd.Process.Pid
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	serves := func(line string) bool { return Field(line, "msg") == "serving" }
	if _, err := d.await(ctx, "serving", serves); err != nil {
		d.Kill()
		return nil, err
	}
	for line := range strings.Lines(d.Log()) {
		switch address := Field(line, "address"); Field(line, "msg") {
		case "listening":
			if Field(line, "cmtp_only") == "true" {
				d.CMTPOnly = append(d.CMTPOnly, address)
			} else {
				d.Shared = append(d.Shared, address)
			}
		case "metrics":
			d.Metrics = address
		}
	}
	return d, nil
}

// Field returns the value of a key in a line of the log, be it text or JSON. In
// text the value must need no quotes.
func Field(line, key string) string {
	if strings.HasPrefix(line, "{") {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil || fields[key] == nil {
			return ""
		}
		return fmt.Sprint(fields[key])
	}
	for word := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v
		}
	}
	return ""
}

// Log returns everything that the daemon has logged.
func (d *Daemon) Log() string { return d.log.String() }

// Await returns the first line of the log that holds all of the words, as soon
// as there is one. It fails when the daemon or ctx ends without.
func (d *Daemon) Await(ctx context.Context, words ...string) (string, error) {
	return d.await(ctx, strings.Join(words, ", "), func(line string) bool { return holdsAll(line, words) })
}

func (d *Daemon) await(ctx context.Context, what string, match func(string) bool) (string, error) {
	seen := 0
	for {
		more, text := d.log.after(seen)
		for line := range strings.Lines(text) {
			if !strings.HasSuffix(line, "\n") {
				break
			}
			seen += len(line)
			if match(line) {
				return line, nil
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for %q in the log: %w\n%s", what, context.Cause(ctx), d.Log())
		case <-d.ended:
			if _, rest := d.log.after(seen); strings.HasSuffix(rest, "\n") {
				continue
			}
			return "", fmt.Errorf("cmtpd ended (%v) before it logged %q:\n%s", d.err, what, d.Log())
		}
	}
}

func holdsAll(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}

// Terminate asks the daemon to stop, as service managers do.
func (d *Daemon) Terminate() error { return d.cmd.Process.Signal(syscall.SIGTERM) }

// Wait waits for the daemon's end. The error is its exit status, if not 0.
func (d *Daemon) Wait(ctx context.Context) error {
	select {
	case <-d.ended:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("cmtpd does not end: %w\n%s", context.Cause(ctx), d.Log())
	}
}

// Kill ends the daemon by SIGKILL, wherever it is, and waits until it is gone. It
// may be called again.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	<-d.ended
}

// bad returns a line of the log that no daemon may ever write, or "".
func (d *Daemon) bad() string {
	for line := range strings.Lines(d.Log()) {
		for _, sign := range []string{"WARNING: DATA RACE", "this is a bug", "panic:", "fatal error:"} {
			if strings.Contains(line, sign) {
				return line
			}
		}
	}
	return ""
}

// A log is text that grows while others wait for it.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer  // under mu
	more chan struct{} // under mu: closed and replaced when the text grows
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	close(l.more)
	l.more = make(chan struct{})
	return len(p), nil
}

func (l *log) String() string {
	_, text := l.after(0)
	return text
}

// clear forgets the text. Nobody may wait for it any more.
func (l *log) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = bytes.Buffer{}
}

// after returns the text from an offset on, and what is closed when there is more.
func (l *log) after(offset int) (<-chan struct{}, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.more, string(l.text.Bytes()[offset:])
}
