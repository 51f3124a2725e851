package shorebird

import (
	"context"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// worthABar is how many bytes make work long enough to show how far it is.
const worthABar = 4 << 20

// A progress counts the bytes that are read through it, and shows them where
// somebody watches.
type progress struct {
	ctx context.Context
	bar *progressbar.ProgressBar // nil where nobody does
}

// progress begins work that reads total bytes. It ends with the context, too.
func (r *run) progress(ctx context.Context, what string, total int64) *progress {
	p := &progress{ctx: ctx}
	if r.ErrIsTerminal && !r.json && total >= worthABar {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(r.Err),
			progressbar.OptionSetDescription(what),
			progressbar.OptionShowBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// done takes the bar away.
func (p *progress) done() {
	if p.bar != nil {
		p.bar.Finish()
	}
}

// watch returns r, counted.
func (p *progress) watch(r io.ReaderAt) io.ReaderAt { return watched{r, p} }

type watched struct {
	r io.ReaderAt
	p *progress
}

func (w watched) ReadAt(b []byte, off int64) (int, error) {
	if w.p.ctx.Err() != nil {
		return 0, context.Cause(w.p.ctx)
	}
	n, err := w.r.ReadAt(b, off)
	w.p.add(n)
	return n, err
}

// add counts bytes. It may be called by several at once.
func (p *progress) add(n int) {
	if p.bar != nil {
		p.bar.Add(n)
	}
}

// Write implements io.Writer: what is written through it counts.
func (p *progress) Write(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	p.add(len(b))
	return len(b), nil
}
