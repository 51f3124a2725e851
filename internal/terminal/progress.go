package terminal

import (
	"context"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A Unit is what a bar counts.
type Unit int

// What a bar counts.
const (
	Bytes Unit = iota
	Items
)

// A Bar shows how far work is, for who watches it. A nil one shows nothing.
type Bar struct {
	bar   *progressbar.ProgressBar
	total int64
}

// NewBar begins one on w, which should be a terminal; a total of -1 is not known yet. That it cannot be drawn is no reason to stop.
func NewBar(w io.Writer, what string, total int64, unit Unit) *Bar {
	shows := progressbar.OptionShowBytes(true)
	if unit == Items {
		shows = progressbar.OptionShowCount()
	}
	return &Bar{total: total, bar: progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what),
		shows,
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

// Add counts. It may be called by several at once.
func (b *Bar) Add(n int) {
	if b != nil {
		_ = b.bar.Add(n)
	}
}

// Set says how much is done, and of how much.
func (b *Bar) Set(done, total int64) {
	if b == nil {
		return
	}
	if total != b.total {
		b.total = total
		b.bar.ChangeMax64(total)
	}
	_ = b.bar.Set64(done)
}

// Done takes the bar away.
func (b *Bar) Done() {
	if b == nil {
		return
	}
	_ = b.bar.Finish()
	if !b.bar.IsFinished() { // where a little more was counted than there should be, it takes nothing away
		_ = b.bar.Clear()
	}
}

// A Progress counts for a bar the bytes that are read or written through it, and ends with a context, too.
type Progress struct {
	*Bar
	ctx context.Context
}

// NewProgress begins work; a nil bar shows nothing of it.
func NewProgress(ctx context.Context, b *Bar) *Progress { return &Progress{b, ctx} }

// Err is why the work has to end, if it has to.
func (p *Progress) Err() error {
	if p.ctx.Err() == nil {
		return nil
	}
	return context.Cause(p.ctx)
}

// Watch returns r, counted.
func (p *Progress) Watch(r io.ReaderAt) io.ReaderAt { return watched{r, p} }

type watched struct {
	r io.ReaderAt
	p *Progress
}

func (w watched) ReadAt(b []byte, off int64) (int, error) {
	if err := w.p.Err(); err != nil {
		return 0, err
	}
	n, err := w.r.ReadAt(b, off)
	w.p.Add(n)
	return n, err
}

// Write implements io.Writer: what is written through it counts.
func (p *Progress) Write(b []byte) (int, error) {
	if err := p.Err(); err != nil {
		return 0, err
	}
	p.Add(len(b))
	return len(b), nil
}
