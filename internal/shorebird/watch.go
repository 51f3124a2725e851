package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/terminal"
)

const (
	// watchWait is for how long the server is asked to wait: short enough that a connection that
	// was lost without a word, as a laptop's in its sleep, is soon noticed.
	watchWait = 9 * time.Minute
	// After trouble the first and the longest pause, before chance makes it up to half as long again.
	firstPause = time.Second
	longPause  = 5 * time.Minute
	// leastWait is for how long a wait without a message takes at least: a server that answers at once though
	// nothing has come is asked no more often. Changes of flags that come together are one by then.
	leastWait = time.Second
)

func (r *run) watchCommand() *cobra.Command {
	var o mailboxOptions
	c := &cobra.Command{
		Use: "watch", Short: "Wait for news, and show a line for each new message",
		Long: "watch keeps the copy of your mailbox up to date and prints a line for each message that\n" +
			"comes, as list does, until it is interrupted; copies of what you send are none. A connection\n" +
			"that is lost is made again.\n" +
			"With --json each line is an object.\n\n" + marksHelp,
		Args: cobra.NoArgs,
		RunE: r.action(func(ctx context.Context, _ []string) error { return r.watch(ctx, o) }),
	}
	c.Flags().StringVar(&o.account, "account", "", "the `ADDRESS` whose mailbox it is, instead of the configuration's account")
	r.passwordFlag(c)
	return c
}

// A watch prints each message once.
type watch struct {
	*mailbox
	last  uint64 // number of the newest message that was seen
	begun bool   // whether last means anything
	lost  bool   // whether a person was told that there is no connection
	told  bool   // whether a person at a terminal was told that there is one
}

func (r *run) watch(ctx context.Context, o mailboxOptions) error {
	m, err := r.openMailbox(ctx, o)
	if err != nil {
		return err
	}
	defer m.close()
	n, err := m.copy.Counts(ctx)
	if err != nil {
		return err
	}
	w := &watch{mailbox: m, begun: !n.Unlisted}
	if w.begun {
		if w.last, err = w.newest(ctx); err != nil {
			return err
		}
	}
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		began := r.Now()
		err := w.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !client.Temporary(err) && !errors.Is(err, context.DeadlineExceeded):
			return err
		case r.Now().Sub(began) > longPause:
			pause = firstPause
		}
		if !w.lost {
			w.note("The connection is lost; it is tried again until it is there (%s).", terminal.OneLine(err.Error()))
			w.lost = true
		}
		if err := sleep(ctx, pause+rand.N(pause/2)); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// follow follows the mailbox until the connection is lost.
func (w *watch) follow(ctx context.Context) error {
	p, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer w.drop(p.where)
	syncer := w.syncer()
	report, err := syncer.Run(ctx, p.channel)
	if err != nil {
		return err
	}
	if w.lost {
		w.note("The connection is there again.")
		w.lost = false
	}
	for {
		if report != nil {
			if err := w.tellNews(ctx, report.Anew); err != nil {
				return err
			}
		}
		if w.ErrIsTerminal && !w.told {
			w.note("Watching the mailbox of %s; Ctrl-C ends it.", w.held.address)
			w.told = true
		}
		if report, err = w.wait(ctx, syncer, p.channel); err != nil {
			return err
		}
	}
}

// wait waits for news.
func (w *watch) wait(ctx context.Context, s *cache.Syncer, srv cache.Server) (*cache.Report, error) {
	began := w.Now()
	report, err := s.Wait(ctx, srv, watchWait)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if report == nil || report.Fetched+report.Unopenable+report.Unreadable == 0 {
		if rest := leastWait - w.Now().Sub(began); rest > 0 {
			return report, sleep(ctx, min(rest, leastWait))
		}
	}
	return report, nil
}

// newest returns the highest number. It is not always the first of the list, which goes by the
// server's clock.
func (w *watch) newest(ctx context.Context) (n uint64, err error) {
	all, err := w.copy.List(ctx, cache.Filter{Way: cache.Came})
	for i := range all {
		n = max(n, all[i].Number)
	}
	return n, err
}

// tellNews prints what has come. In another epoch numbers mean something else, and nothing is
// known to be new.
func (w *watch) tellNews(ctx context.Context, anew bool) error {
	var news []cache.Message
	for before, more := int64(0), true; w.begun && !anew && more; {
		page, err := w.copy.List(ctx, cache.Filter{Before: before, Way: cache.Came})
		if err != nil {
			return err
		}
		more = len(page) > 0 && page[len(page)-1].Number > w.last
		for i := range page {
			if page[i].Number > w.last {
				news = append(news, page[i])
			}
			before = page[i].ID
		}
	}
	slices.Reverse(news)
	lines, err := w.reports(ctx, news)
	if err != nil {
		return err
	}
	for i := range lines {
		if err := w.printLine(&lines[i]); err != nil {
			return err
		}
	}
	if w.last, err = w.newest(ctx); err != nil {
		return err
	}
	w.begun = true
	return nil
}

// printLine prints one message, in one line of JSON where that was asked for.
func (r *run) printLine(v *MessageReport) error {
	line := []byte(r.line(v, 1, terminal.Columns(v.labels())))
	if r.json {
		b, err := encode(v)
		if err != nil {
			return err
		}
		line = append(joined(b), '\n')
	}
	if _, err := r.Out.Write(line); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// joined makes one line of JSON as encode writes it, whose strings have no line breaks.
func joined(b []byte) []byte {
	var line []byte
	for l := range bytes.Lines(b) {
		line = append(line, bytes.TrimSpace(l)...)
	}
	return line
}
