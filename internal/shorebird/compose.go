package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
)

// maxComposed bounds what an editor may leave, in bytes.
const maxComposed = maxText + 1<<20

// Why a letter that was composed is not sent.
var (
	errEditor    = errors.New("the editor failed")
	errUnchanged = errors.New("nothing was changed, so nothing is sent")
	errNoText    = errors.New("the letter has no text, so nothing is sent")
	errSetAside  = errors.New("the letter is not sent")
)

// composes reports whether a letter's text is written in an editor.
func (r *run) composes(o *sendOptions) bool {
	return o.text == "" && r.InIsTerminal && r.Edit != nil && !r.json
}

// A composition is a letter that is being written.
type composition struct {
	*office
	dir  string // private
	path string // of the file in it
	old  []byte // the file before the editor had it
}

// composeDir makes a directory that nobody else can look into, in memory where there is a file
// system in memory.
func (r *run) composeDir() (string, error) {
	for _, in := range []string{r.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if !filepath.IsAbs(in) {
			continue
		}
		if dir, err := os.MkdirTemp(in, "shorebird-"); err == nil {
			return dir, nil
		}
	}
	dir, err := os.MkdirTemp("", "shorebird-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the letter: %w", err)
	}
	r.note("The letter is written on disk, in %s, until it is sent: there is no $XDG_RUNTIME_DIR.", dir)
	return dir, nil
}

// compose has a letter written in an editor, and sent. What is not sent is kept as a draft, or, where
// there is no account to keep it, in the file.
func (o *office) compose(ctx context.Context, d *cache.Draft) error {
	dir, err := o.run.composeDir()
	if err != nil {
		return err
	}
	c := &composition{office: o, dir: dir, path: filepath.Join(dir, "letter.txt")}
	d, unsent := c.write(ctx, d)
	if unsent != nil && isEmpty(d) {
		return errors.Join(unsent, c.remove())
	}
	kept, err := c.keep(context.WithoutCancel(ctx), d)
	if !kept {
		if unsent = errors.Join(unsent, err); unsent == nil {
			unsent = o.deliver(ctx, d)
		}
		if unsent == nil {
			return c.remove()
		}
		o.run.note("What you wrote is in %s", c.path)
		return unsent
	}
	if err := c.remove(); err != nil || unsent != nil {
		o.tellDraft(d)
		return errors.Join(unsent, err)
	}
	return o.deliverDraft(ctx, d)
}

func (c *composition) remove() error {
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("removing the letter's file: %w", err)
	}
	return nil
}

// isEmpty reports whether there is nothing in a letter that would be missed.
func isEmpty(d *cache.Draft) bool {
	return d.ID == 0 && len(d.Recipients)+len(d.Files) == 0 && d.Subject == "" && strings.TrimSpace(d.Text) == ""
}

// keep saves a letter as a draft, where the account has a copy on this machine.
func (c *composition) keep(ctx context.Context, d *cache.Draft) (bool, error) {
	box, err := c.boxOf(ctx, d)
	if box == nil || err != nil {
		return false, err
	}
	if err := box.SaveDraft(ctx, d); err != nil {
		return false, err
	}
	return true, nil
}

// write has a letter written until it is fit to be sent. With an error, it is what there is
// of it.
func (c *composition) write(ctx context.Context, d *cache.Draft) (*cache.Draft, error) {
	next := formatDraft(d)
	for {
		c.old = next
		if err := os.WriteFile(c.path, c.old, 0o600); err != nil {
			return d, fmt.Errorf("writing the letter for the editor: %w", err)
		}
		failed := c.run.Edit(c.path)
		b, err := readFile(c.path, maxComposed)
		if err != nil {
			return d, fmt.Errorf("reading what the editor has left: %w", err)
		}
		same := bytes.Equal(b, c.old)
		var wrong []string
		if !same {
			d, wrong = parseDraft(b, d, c.run.Getenv("HOME"))
		}
		next = marked(b, wrong)
		switch {
		case ctx.Err() != nil:
			return d, context.Cause(ctx)
		case failed != nil:
			return d, fmt.Errorf("%w: %w", errEditor, failed)
		case same:
			return d, errUnchanged
		case strings.TrimSpace(d.Text) == "":
			return d, errNoText
		case len(wrong) > 0:
			continue
		}
		done, err := c.confirmed(ctx, d)
		if done || err != nil {
			return d, err
		}
	}
}

// readFile returns a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: it may have %d bytes", errTooMuchText, most)
	}
	return b, err
}

// confirmed asks a person whether a letter is to be sent; not to be sent is an error, and false is to write on.
func (c *composition) confirmed(ctx context.Context, d *cache.Draft) (bool, error) {
	if c.run.ReadLine == nil {
		return true, nil
	}
	c.run.note("To: %s\nSubject: %s", strings.Join(d.Recipients, ", "), letter.Line(d.Subject))
	c.show(d.Files)
	for {
		b, err := c.run.ReadLine(ctx, "Send it? y (yes), e (edit), d (keep as a draft): ")
		if err != nil {
			return false, err
		}
		switch strings.ToLower(strings.TrimSpace(string(b))) {
		case "y", "yes":
			return true, nil
		case "e", "edit":
			return false, nil
		case "d", "draft":
			return false, errSetAside
		}
	}
}
