package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// newKey makes a key of an account.
func newKey(t testing.TB) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// open opens a copy, and closes it with the test.
func open(t testing.TB, dir string, keys ...*crypt.PrivateKey) *cache.Cache {
	t.Helper()
	c, notes := openNoted(t, dir, keys...)
	if len(notes) > 0 {
		t.Fatalf("opening %s: %q", dir, notes)
	}
	return c
}

func openNoted(t testing.TB, dir string, keys ...*crypt.PrivateKey) (c *cache.Cache, notes []string) {
	t.Helper()
	c, err := cache.Open(t.Context(), dir, keys, cache.Options{Note: func(s string) { notes = append(notes, s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, notes
}

func newCache(t testing.TB) *cache.Cache {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "data", "anna.mail"), newKey(t))
}

func TestCache_Drafts(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	d := &cache.Draft{Recipients: []string{"ben@b.example", "cleo@c.example", "ben@b.example"}, Subject: "Hello", Text: "first",
		Files: []cache.File{{Path: "/x/y.pdf", Name: "y.pdf", Size: 7}}}
	if err := c.SaveDraft(ctx, d); err != nil || d.ID == 0 {
		t.Fatalf("saved as %d, %v", d.ID, err)
	}
	d.Text = "second"
	if err := c.SaveDraft(ctx, d); err != nil {
		t.Fatal(err)
	}
	all, err := c.Drafts(ctx)
	if err != nil || len(all) != 1 || all[0].Text != "second" || all[0].Files[0].Name != "y.pdf" || all[0].ID != d.ID {
		t.Fatalf("drafts: %+v, %v", all, err)
	}
	letter, err := c.Queue(ctx, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Queue": second(c.Queue(ctx, d.ID)), "SaveDraft": c.SaveDraft(ctx, d), "RemoveDraft": c.RemoveDraft(ctx, d.ID), "Draft": second(c.Draft(ctx, d.ID)),
	} {
		if !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s of a queued draft: %v", name, err)
		}
	}
	out, err := c.Outbox(ctx)
	if err != nil || len(out) != 1 || out[0].ID != letter || len(out[0].Copies) != 2 || out[0].Draft.Text != "second" {
		t.Fatalf("outbox: %+v, %v", out, err)
	}
}

func second[T any](_ T, err error) error { return err }

// queued returns the copy of a letter to one recipient.
func queued(t *testing.T, c *cache.Cache) cache.Copy {
	t.Helper()
	d := &cache.Draft{Recipients: []string{"ben@b.example"}}
	if err := c.SaveDraft(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Queue(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	return onlyCopy(t, c)
}

func onlyCopy(t *testing.T, c *cache.Cache) cache.Copy {
	t.Helper()
	out, err := c.Outbox(t.Context())
	if err != nil || len(out) != 1 || len(out[0].Copies) != 1 {
		t.Fatalf("outbox: %+v, %v", out, err)
	}
	return out[0].Copies[0]
}

func TestCache_Seal(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	one := queued(t, c)
	text := strings.Repeat("sealed bytes ", 50_000) // more than two rows
	broken := errors.New("broken")
	err := c.Seal(ctx, one.ID, func(w io.Writer) (cache.Digest, error) {
		io.WriteString(w, text[:300_000])
		return cache.Digest{}, broken
	})
	if !errors.Is(err, broken) || onlyCopy(t, c).State != cache.Waiting {
		t.Fatalf("after a broken sealing: %v, %+v", err, onlyCopy(t, c))
	}
	write := func(w io.Writer) (cache.Digest, error) {
		for chunk := range slices.Chunk([]byte(text), 70_001) {
			if _, err := w.Write(chunk); err != nil {
				return cache.Digest{}, err
			}
		}
		return cache.Digest{7}, nil
	}
	if err := c.Seal(ctx, one.ID, write); err != nil {
		t.Fatal(err)
	}
	if err := c.Seal(ctx, one.ID, write); !errors.Is(err, cache.ErrState) {
		t.Errorf("sealed twice: %v", err)
	}
	one = onlyCopy(t, c)
	if one.State != cache.Sealed || one.Digest != (cache.Digest{7}) || one.Size != int64(len(text)) {
		t.Fatalf("sealed: %+v", one)
	}
	r := c.Bytes(ctx, &one)
	if got, err := io.ReadAll(io.NewSectionReader(r, 0, one.Size)); err != nil || string(got) != text {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	part := make([]byte, 10)
	if n, err := r.ReadAt(part, 262_140); n != 10 || err != nil || string(part) != text[262_140:262_150] {
		t.Errorf("across rows: %q, %v", part, err)
	}
	if n, err := r.ReadAt(part, one.Size-4); n != 4 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func TestCache_SetSent(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	one := queued(t, c)
	write := func(w io.Writer) (cache.Digest, error) {
		_, err := io.WriteString(w, "sealed bytes")
		return cache.Digest{7}, err
	}
	if err := c.SetSent(ctx, one.ID, nil); !errors.Is(err, cache.ErrState) {
		t.Errorf("sent before it was sealed: %v", err)
	}
	if err := errors.Join(c.Seal(ctx, one.ID, write), c.SetTried(ctx, one.ID, "no network"), c.SetSent(ctx, one.ID, []byte("receipt"))); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"SetSent": c.SetSent(ctx, one.ID, nil), "SetFailed": c.SetFailed(ctx, one.ID, "x"), "Retry": c.Retry(ctx, one.ID), "Seal": c.Seal(ctx, one.ID, write),
	} {
		if !errors.Is(err, cache.ErrState) {
			t.Errorf("%s of a copy that was sent: %v", name, err)
		}
	}
	one = onlyCopy(t, c)
	if one.State != cache.Sent || string(one.Receipt) != "receipt" {
		t.Errorf("sent: %+v", one)
	}
	if _, err := c.Bytes(ctx, &one).ReadAt(make([]byte, 1), 0); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("bytes of what was sent: %v", err)
	}
	if err := c.RemoveLetter(ctx, one.Letter); err != nil {
		t.Error(err)
	}
	if err := c.RemoveLetter(ctx, one.Letter); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestCache_Retry(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	one := queued(t, c)
	for i := range 2 {
		err := c.Seal(ctx, one.ID, func(w io.Writer) (cache.Digest, error) {
			_, err := fmt.Fprint(w, "try ", i)
			return cache.Digest{byte(i)}, err
		})
		if err == nil {
			err = c.SetFailed(ctx, one.ID, "no such account")
		}
		if err != nil {
			t.Fatal(err)
		}
		if one := onlyCopy(t, c); one.State != cache.Failed || one.Reason != "no such account" {
			t.Errorf("failed: %+v", one)
		}
		if err := c.Retry(ctx, one.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// A context that is over ends a call, and the copy stays usable.
func TestCache_Context(t *testing.T) {
	c := newCache(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Drafts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	if _, err := c.Drafts(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Drafts(t.Context()); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A sealed copy is sent as it is, each time.
func TestCache_Ready(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	one := queued(t, c)
	whole := text("anna@a.example", "ben@b.example", "body", 300_000, 7)
	err := c.Seal(ctx, one.ID, func(w io.Writer) (cache.Digest, error) {
		_, err := w.Write(whole)
		return cache.Digest{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	one = onlyCopy(t, c)
	for range 2 {
		o, err := c.Ready(ctx, &one)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := cmtp.WriteMessage(&b, o.Header, o.Log, o.Body, o.Attachments); err != nil || b.String() != string(whole) {
			t.Errorf("%d bytes, %v", b.Len(), err)
		}
	}
}
