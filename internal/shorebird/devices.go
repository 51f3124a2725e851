package shorebird

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

// DeviceReport is what devices prints with --json.
type DeviceReport struct {
	Account  string      `json:"account"`
	Saved    string      `json:"saved"`                   // the file of the keys
	Keyring  bool        `json:"keyring"`                 // whether the desktop keyring has them, too
	Unlocked time.Time   `json:"unlocked_until,omitzero"` // until when the kernel has them, after unlock; absent where it has not
	Recovery bool        `json:"recovery"`                // whether there is a recovery key
	Keys     []DeviceKey `json:"keys"`                    // the newest first
	Mailbox  string      `json:"mailbox"`                 // the directory of the local copy
	Bytes    int64       `json:"bytes"`                   // on disk
	Messages int64       `json:"messages"`
	Synced   time.Time   `json:"synced,omitzero"` // when the copy had all that the mailbox had
	Pending  int64       `json:"pending"`         // messages with changes that the server has not heard of
	Drafts   int         `json:"drafts"`
	Outbox   int         `json:"outbox"` // letters
}

// DeviceKey is one of the account's keys on this machine.
type DeviceKey struct {
	Fingerprint string    `json:"fingerprint"`
	Made        time.Time `json:"made,omitzero"` // not known of every key
}

func (r *run) devicesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "devices [ADDRESS]", Short: "What this machine has of your account",
		Long: "devices tells of the keys of ADDRESS, or of the configuration's account, on this machine, of\n" +
			"the copy of its mailbox, and of what waits to be sent. It asks nobody.\n\n" +
			"It cannot tell of your other devices, and no command can: all of them prove who you are\n" +
			"with the same key, so your server does not know one from another, or how many there are.\n" +
			"A device that was lost is shut out by passwd and rotate together.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(r.devices),
	}
	r.passwordFlag(c)
	return c
}

func (r *run) devices(ctx context.Context, args []string) error {
	account := ""
	if len(args) > 0 {
		account = args[0]
	}
	return r.withBox(ctx, account, false, func(o *office, box *cache.Cache, a address.Address) error {
		v, err := o.device(ctx, box, a)
		if err != nil {
			return err
		}
		return r.report(v, func(out *bytes.Buffer) { r.Fields(out, v.rows(r.Now())) })
	})
}

func (o *office) device(ctx context.Context, box *cache.Cache, a address.Address) (*DeviceReport, error) {
	held, err := o.run.held(ctx, o.home, a)
	if err != nil {
		return nil, err
	}
	defer held.ring.Wipe()
	v := &DeviceReport{Account: a.String(), Saved: o.home.xzibit(a), Mailbox: o.home.mailbox(a), Recovery: held.ring.Recovery != crypt.PublicKey{}}
	for _, k := range held.ring.Keys {
		one := DeviceKey{Fingerprint: k.Key.Public().String()}
		if k.Made.Unix() > 0 {
			one.Made = k.Made.UTC()
		}
		v.Keys = append(v.Keys, one)
	}
	if ring, _ := o.run.entry(ctx, a); ring != nil {
		v.Keyring = true
		ring.Wipe()
	}
	v.Unlocked = o.run.unlockedUntil(o.home, a, held.from)
	n, err := box.Counts(ctx)
	if err != nil {
		return nil, err
	}
	v.Messages, v.Pending, v.Synced = n.Messages, n.Pending, n.Synced
	drafts, err := box.Drafts(ctx)
	if err != nil {
		return nil, err
	}
	letters, err := box.Outbox(ctx)
	v.Drafts, v.Outbox = len(drafts), len(letters)
	if err == nil {
		v.Bytes, err = diskSize(v.Mailbox)
	}
	return v, err
}

// diskSize returns how many bytes the files in a directory have.
func diskSize(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("looking at the copy of the mailbox: %w", err)
	}
	return total, nil
}

func (v *DeviceReport) rows(now time.Time) [][2]string {
	rows := [][2]string{{"account", v.Account}}
	for i, k := range v.Keys {
		what := "key"
		if i > 0 {
			what = "older key"
		}
		made := "made at a time that is not known"
		if !k.Made.IsZero() {
			made = fmt.Sprintf("made %s, %d days ago", k.Made.Format(time.DateOnly), max(0, int(now.Sub(k.Made).Hours()/24)))
		}
		rows = append(rows, [2]string{what, k.Fingerprint + ", " + made})
	}
	synced := "never in step with the mailbox"
	if !v.Synced.IsZero() {
		synced = "in step with the mailbox on " + v.Synced.Local().Format("2 Jan 2006, 15:04")
	}
	yes := map[bool]string{true: "yes", false: "no"}
	unlocked := "no"
	if !v.Unlocked.IsZero() {
		unlocked = until(v.Unlocked)
	}
	return append(rows, [][2]string{
		{"saved", v.Saved}, {"desktop keyring", yes[v.Keyring]}, {"unlocked", unlocked}, {"recovery key", yes[v.Recovery]},
		{"mailbox", v.Mailbox}, {"", fmt.Sprintf("%s, %s, %s", messages(v.Messages), size(v.Bytes), synced)},
		{"not told yet", fmt.Sprintf("changes of %s", messages(v.Pending))},
		{"drafts", fmt.Sprint(v.Drafts)}, {"outbox", fmt.Sprint(v.Outbox)},
	}...)
}

// AccountsReport is what accounts prints with --json.
type AccountsReport struct {
	Accounts []AccountLine `json:"accounts"`
}

// AccountLine is one of the user's accounts.
type AccountLine struct {
	Account string `json:"account"`
	Default bool   `json:"default"`          // that commands use unless they are told otherwise
	Server  string `json:"server,omitempty"` // its place; absent where none is known
	Keys    bool   `json:"keys"`             // whether its keys are on this machine
	// Unlocked is until when the kernel has them, after unlock; absent where it has not.
	Unlocked time.Time `json:"unlocked_until,omitzero"`
}

func (r *run) accountsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "accounts", Short: "List your accounts, and which one is used",
		Long: "accounts lists the accounts that the configuration file names, and those whose keys are on\n" +
			"this machine. Commands use the one under account; others are chosen with --account, or\n" +
			"with --from for a letter. Each has its server under [accounts]:\n\n" +
			"    [accounts.\"me@example.net\"]\n    server = \"mx.example.net:25\"",
		Args: cobra.NoArgs,
		RunE: r.action(func(context.Context, []string) error { return r.accounts() }),
	}
}

func (r *run) accounts() error {
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	names, err := h.accountNames(n.settings)
	if err != nil {
		return err
	}
	known, err := newAccounts(h.data).load()
	if err != nil {
		return err
	}
	v := AccountsReport{Accounts: []AccountLine{}}
	for _, name := range names {
		a, err := address.Parse(name)
		if err != nil {
			return err
		}
		server, _ := n.server(a.Domain)
		v.Accounts = append(v.Accounts, AccountLine{name, a == n.settings.Account, server, h.hasKeys(a), r.unlockedUntil(h, a, known[name].Xzibit)})
	}
	return r.report(v, func(out *bytes.Buffer) { v.text(out) })
}

// accountNames are the accounts that the settings name, and those whose keys are on this machine.
func (h home) accountNames(s *settings) ([]string, error) {
	known, err := newAccounts(h.data).load()
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range s.Accounts {
		names[name] = true
	}
	for name := range known {
		if a, err := address.Parse(name); err == nil && h.hasKeys(a) {
			names[name] = true
		}
	}
	if !s.Account.IsZero() {
		names[s.Account.String()] = true
	}
	return slices.Sorted(maps.Keys(names)), nil
}

func (v *AccountsReport) text(out *bytes.Buffer) {
	if len(v.Accounts) == 0 {
		out.WriteString("no account is known: shorebird register makes one, and recover brings one here\n")
	}
	var rows [][2]string
	for _, a := range v.Accounts {
		text := map[bool]string{true: "keys are here", false: "no keys are here"}[a.Keys]
		if a.Server != "" {
			text += "; server " + letter.Line(a.Server)
		} else {
			text += "; no server is known"
		}
		if !a.Unlocked.IsZero() {
			text += "; unlocked " + until(a.Unlocked)
		}
		if a.Default {
			text += "; used by default"
		}
		rows = append(rows, [2]string{a.Account, text})
	}
	table(out, rows)
}
