package shorebird

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// SyncReport is what sync prints with --json.
type SyncReport struct {
	Account    string   `json:"account"`
	Changes    int      `json:"changes"`    // that the server told of
	Fetched    int      `json:"fetched"`    // messages
	Unopenable int      `json:"unopenable"` // that no key opens
	Unreadable int      `json:"unreadable"` // that the server could not give as it has listed them
	Told       int      `json:"told"`       // changes that the server was told of
	GivenUp    []string `json:"given_up"`   // those that cannot be
	Anew       bool     `json:"anew"`       // whether the mailbox has another epoch
	Messages   int64    `json:"messages"`   // in the copy
	Unseen     int64    `json:"unseen"`
	Bytes      uint64   `json:"bytes"`  // of all messages
	Quota      uint64   `json:"quota"`  // how many there may be
	Scarce     bool     `json:"scarce"` // whether less than a fifth of that is left
}

func (r *run) syncCommand() *cobra.Command {
	var o mailboxOptions
	again := false
	c := &cobra.Command{
		Use: "sync", Short: "Bring the copy of your mailbox on this machine up to date",
		Long: "sync fetches what is new, tells the server what you have read, flagged and deleted, and\n" +
			"says what came. It may be interrupted: the next one goes on. The copy is encrypted under\n" +
			"your keys; list, read and search work from it without a network.",
		Args: cobra.NoArgs,
		RunE: r.action(func(ctx context.Context, _ []string) error { return r.sync(ctx, o, again) }),
	}
	c.Flags().StringVar(&o.account, "account", "", "the `ADDRESS` whose mailbox it is, instead of the configuration's account")
	c.Flags().BoolVar(&again, "again", false, "fetch again what did not open, or could not be read")
	r.passwordFlag(c)
	return c
}

func (r *run) sync(ctx context.Context, o mailboxOptions, again bool) error {
	m, err := r.openMailbox(ctx, o)
	if err != nil {
		return err
	}
	defer m.close()
	if again {
		if err := m.copy.RefetchAll(ctx); err != nil {
			return err
		}
	}
	done := m.showFetching()
	report, err := m.sync(ctx)
	done()
	if err != nil {
		return err
	}
	n, err := m.copy.Counts(ctx)
	if err != nil {
		return err
	}
	v := newSyncReport(m.held.address.String(), report, n)
	m.sendWaiting(ctx)
	return r.report(v, func(out *bytes.Buffer) { v.text(out) })
}

// showFetching shows how many messages are left, where somebody watches and it takes a while.
func (m *mailbox) showFetching() (done func()) {
	if !m.ErrIsTerminal || m.json {
		return func() {}
	}
	bar := terminal.NewBar(m.Err, "fetching", -1, terminal.Items)
	m.fetched = func(done, left int64) { bar.Set(done, done+left) }
	return bar.Done
}

func newSyncReport(account string, r *cache.Report, n *cache.Counts) *SyncReport {
	v := &SyncReport{Account: account, Changes: r.Changes, Fetched: r.Fetched, Unopenable: r.Unopenable, Unreadable: r.Unreadable,
		Told: r.Told, GivenUp: []string{}, Anew: r.Anew, Messages: n.Messages, Unseen: n.Unseen}
	for _, err := range r.GivenUp {
		v.GivenUp = append(v.GivenUp, err.Error())
	}
	if n.Box != nil {
		v.Bytes, v.Quota, v.Scarce = n.Box.Bytes, n.Box.Quota, cache.Scarce(n.Box)
	}
	return v
}

func (v *SyncReport) text(out *bytes.Buffer) {
	fmt.Fprintf(out, "%s: %s fetched; %d in the mailbox, %d of them new\n", letter.Line(v.Account), messages(int64(v.Fetched)), v.Messages, v.Unseen)
	if v.Anew {
		out.WriteString("the mailbox was restored or made anew: all of it was compared\n")
	}
	if n := v.Unopenable + v.Unreadable; n > 0 {
		fmt.Fprintf(out, "%s cannot be shown: list says which, and sync --again tries once more\n", messages(int64(n)))
	}
	if v.Scarce {
		fmt.Fprintf(out, "less than a fifth of its room is left: %d of %d bytes are taken\n", v.Bytes, v.Quota)
	}
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}
