package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

type saveOptions struct {
	mailboxOptions
	to, raw string
}

// SaveReport is what save prints with --json.
type SaveReport struct {
	Number int64         `json:"number"` // the message's
	Raw    string        `json:"raw,omitempty"`
	Dir    string        `json:"dir,omitempty"`
	Saved  []SavedReport `json:"saved"`
}

// SavedReport is an attachment that was saved.
type SavedReport struct {
	Number int    `json:"number"`
	Name   string `json:"name"` // that its writer gave it
	Size   int64  `json:"size"`
	Saved  string `json:"saved"` // name of the file
}

func (r *run) saveCommand() *cobra.Command {
	var o saveOptions
	c := &cobra.Command{
		Use: "save NUMBER [ATTACHMENT...]", Short: "Save a message's attachments, or all of it",
		Long: "save writes the attachments of a message into the directory DIR: all of them, or those with\n" +
			"the given numbers or names. What is not on this machine is fetched from the server, and\n" +
			"nothing is saved before all of it was found unaltered. No file is ever replaced: a name\n" +
			"that is taken gets a number. With --raw, the message is written to FILE as it came,\n" +
			"sealed: shorebird open reads it.",
		Args: cobra.MinimumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.saveMessage(ctx, args, o) }),
	}
	c.Flags().StringVar(&o.to, "to", "", "the `DIR` to write attachments into; it is made where it is missing")
	c.Flags().StringVar(&o.raw, "raw", "", "write the sealed message to `FILE` instead, which must not exist")
	c.MarkFlagsMutuallyExclusive("to", "raw")
	r.mailboxFlags(c, &o.mailboxOptions)
	return c
}

func (r *run) saveMessage(ctx context.Context, args []string, o saveOptions) error {
	if o.raw != "" && len(args) > 1 {
		return usage(errors.New("--raw writes the whole message: name no attachments"))
	}
	if o.raw == "" && o.to == "" {
		return hint(usage(errors.New("where to?")), "Name a directory for the attachments, as in --to . for this one, or a file for the whole message with --raw FILE.")
	}
	m, err := r.openMailbox(ctx, o.mailboxOptions)
	if err != nil {
		return err
	}
	defer m.close()
	msg, number, err := m.seek(ctx, args[0])
	if err != nil {
		return err
	}
	v := &SaveReport{Number: number, Saved: []SavedReport{}}
	if o.raw != "" {
		v.Raw = o.raw
		err = m.saveRaw(ctx, msg, o.raw)
	} else {
		v.Dir = o.to
		err = m.saveAttachments(ctx, msg, args[1:], v)
	}
	if err != nil && len(v.Saved) == 0 {
		return err
	}
	return errors.Join(err, r.report(v, v.text))
}

func (v *SaveReport) text(out *bytes.Buffer) {
	if v.Raw != "" {
		fmt.Fprintf(out, "message %d: saved, sealed, as %s\n", v.Number, letter.Line(v.Raw))
	}
	for _, a := range v.Saved {
		fmt.Fprintf(out, "%d. %s, %d bytes, saved as %s\n", a.Number, terminal.Clip(a.Name, 200), a.Size, letter.Line(filepath.Join(v.Dir, a.Saved)))
	}
	if v.Raw == "" && len(v.Saved) == 0 {
		out.WriteString("The message has no attachments.\n")
	}
}

// saveRaw writes the message to a new file, which is removed again where that fails.
func (m *mailbox) saveRaw(ctx context.Context, msg *cache.Message, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("saving the message: %w", err)
	}
	err = m.download(ctx, msg, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("saving the message: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// download writes all of a message, from the copy or else from the server.
func (m *mailbox) download(ctx context.Context, msg *cache.Message, w io.Writer) error {
	err := m.copy.WriteMessage(ctx, nil, msg.ID, w)
	if !errors.Is(err, cache.ErrNotKept) {
		return err
	}
	if m.offline {
		return hint(err, "Without --offline it is fetched from the server.")
	}
	p, err := m.connect(ctx)
	if err != nil {
		return err
	}
	bar := m.progress(ctx, "fetching", msg.Size)
	defer bar.Done()
	return m.copy.WriteMessage(ctx, p.channel, msg.ID, io.MultiWriter(w, bar))
}

// saveAttachments saves those that names choose, or all.
func (m *mailbox) saveAttachments(ctx context.Context, msg *cache.Message, names []string, v *SaveReport) error {
	f, err := os.CreateTemp("", "shorebird-*") // it holds what is sealed, as it came
	if err != nil {
		return fmt.Errorf("fetching the message: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("fetching the message: %w", err)
	}
	if err := m.download(ctx, msg, f); err != nil {
		return fmt.Errorf("fetching the message: %w", err)
	}
	bar := m.progress(ctx, "opening", 2*msg.Size)
	defer bar.Done()
	l, err := letter.Open(bar.Watch(f), msg.Size, keys(m.held.ring))
	if err != nil {
		return fmt.Errorf("opening the message: %w", err)
	}
	chosen, err := choose(l.Attachments, names)
	if err != nil || len(chosen) == 0 {
		return err
	}
	if err := os.MkdirAll(v.Dir, 0o700); err != nil {
		return fmt.Errorf("making the directory for attachments: %w", err)
	}
	dir, err := os.OpenRoot(v.Dir)
	if err != nil {
		return fmt.Errorf("opening the directory for attachments: %w", err)
	}
	defer dir.Close()
	for _, i := range chosen {
		a := l.Attachments[i]
		name, err := letter.Save(dir, a)
		if err != nil {
			return err
		}
		v.Saved = append(v.Saved, SavedReport{i + 1, a.Name, a.Size, name})
	}
	return nil
}

// choose returns the places of attachments, which are named by number, or by the name that they
// have or are shown under.
func choose(all []letter.Attachment, names []string) (chosen []int, err error) {
	if len(names) == 0 {
		for i := range all {
			chosen = append(chosen, i)
		}
	}
	for _, name := range names {
		i, err := strconv.Atoi(name)
		if i--; err != nil || i < 0 || i >= len(all) {
			i = slices.IndexFunc(all, func(a letter.Attachment) bool { return a.Name == name || terminal.OneLine(a.Name) == name })
		}
		if i < 0 {
			return nil, hint(fmt.Errorf("%q: %w", name, errNoSuchAttachment), "shorebird read shows their numbers and names.")
		}
		if !slices.Contains(chosen, i) {
			chosen = append(chosen, i)
		}
	}
	return chosen, nil
}
