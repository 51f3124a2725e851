package shorebird

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
	"unicode/utf16"

	"cmtpd/internal/crypt"
	"cmtpd/internal/kernelring"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// An App is the program with all that it needs of the world.
type App struct {
	terminal.Terminal
	Getenv func(string) string
	Now    func() time.Time // may be called by several at once
	// Dial connects to servers; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// GreetingWait is how long a server's silence is listened to; zero means what
	// package client thinks right.
	GreetingWait time.Duration
	// Desktop is the desktop's keyring; nil where there is none.
	Desktop Desktop
	// DesktopWait bounds what a call of it may take. Zero means a minute, or three
	// seconds where there is nobody to ask.
	DesktopWait time.Duration
	// Kernel keeps keys for a while; nil where none does.
	Kernel Kernel
	// SyncWait bounds how long a command that works from the copy of the mailbox waits for
	// the server. Zero means brief.
	SyncWait time.Duration
	// Params is what sealing under a password costs; zero means what package xzibit
	// thinks right.
	Params xzibit.Params
	// Least is what an xzibit of version 3 from a server has to cost; zero means what
	// package xzibit says that every writer takes.
	Least xzibit.Params
	// Kept bounds what the outbox keeps of one letter, all its copies together, in bytes of text and
	// attachments. A longer letter is sent without it. Zero means 64 MiB.
	Kept int64
}

// System returns the program in this process.
func System() *App {
	return &App{Terminal: terminal.System(), Getenv: os.Getenv, Now: time.Now, Desktop: systemDesktop(), Kernel: kernelring.Ring{}}
}

// Run runs the command line args, without the program's name, and returns the exit
// status.
func (a *App) Run(ctx context.Context, args []string) int {
	r := &run{App: a}
	defer r.told.wipe()
	root := r.command()
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil {
		err = ctx.Err() // what it broke on its way says less
	} else if !r.started {
		err = usage(apart(err))
	}
	d := diagnose(err)
	if d.Hint == usageHint && c.HasParent() {
		d.Hint = "see " + c.CommandPath() + " --help"
	}
	r.complain(d)
	return d.Code
}

// A run is one invocation: the program and its flags.
type run struct {
	*App
	json    bool
	server  string
	timeout time.Duration
	started bool // arguments and flags were in order

	stdin      bool // --password-stdin
	takesStdin bool // the command has that flag
	noPager    bool // --no-pager
	noKeyring  bool // --no-keyring
	told       secrets

	desktopFails bool // the desktop keyring has failed
}

// complain tells what went wrong, and what to do about it.
func (r *run) complain(d diagnosis) {
	if r.json {
		b, err := encode(d)
		if err == nil {
			r.Err.Write(b)
			return
		}
	}
	fmt.Fprintln(r.Err, "shorebird:", letter.Text([]byte(d.Message)))
	if d.Hint != "" {
		fmt.Fprintln(r.Err, "hint:", letter.Text([]byte(d.Hint)))
	}
}

// note tells something that is not the result. Scripts are spared it.
func (r *run) note(format string, args ...any) {
	if !r.json {
		fmt.Fprintln(r.Err, letter.Text(fmt.Appendf(nil, format, args...)))
	}
}

// report prints the result: text is called where JSON was not asked for.
func (r *run) report(v any, text func(*bytes.Buffer)) error {
	var out bytes.Buffer
	if r.json {
		b, err := encode(v)
		if err != nil {
			return err
		}
		out.Write(b)
	} else {
		text(&out)
	}
	if _, err := r.Out.Write(out.Bytes()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// present is report for what a person reads at leisure: by a pager where it is longer than the terminal is high. Before that
// it calls leisurely, since what follows may take any time.
func (r *run) present(v any, text func(*bytes.Buffer), leisurely func()) error {
	if r.json || r.noPager {
		return r.report(v, text)
	}
	var out bytes.Buffer
	text(&out)
	if r.NeedsPager(out.Bytes()) {
		leisurely()
		err := r.RunPager(out.Bytes())
		if err == nil {
			return nil
		}
		r.note("The pager cannot be run: %v; see $PAGER.", err)
	}
	return r.report(v, func(b *bytes.Buffer) { b.Write(out.Bytes()) })
}

// worthABar is how many bytes make work long enough to show how far it is.
const worthABar = 4 << 20

// progress begins work that reads total bytes, and shows how far it is where somebody watches. It ends with the
// context, too.
func (r *run) progress(ctx context.Context, what string, total int64) *terminal.Progress {
	var bar *terminal.Bar
	if r.ErrIsTerminal && !r.json && total >= worthABar {
		bar = terminal.NewBar(r.Err, what, total, terminal.Bytes)
	}
	return terminal.NewProgress(ctx, bar)
}

// encode returns v as JSON in which every character that would not just be shown
// is escaped: the value is exact, and a terminal is safe.
func encode(v any) ([]byte, error) {
	var plain bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	var b strings.Builder
	for _, c := range plain.String() {
		if c == '\n' || letter.Visible(c) {
			b.WriteRune(c)
			continue
		}
		for _, u := range utf16.Encode([]rune{c}) {
			fmt.Fprintf(&b, `\u%04x`, u)
		}
	}
	return []byte(b.String()), nil
}

func base64Key(k crypt.PublicKey) string { return base64.StdEncoding.EncodeToString(k[:]) }
