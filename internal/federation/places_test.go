package federation_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/federation"
)

// Questions that get no answer keep one that does from being asked for a second for each round of them at most, and are
// left alone for as long as nobody waits.
func TestPlaces(t *testing.T) {
	const quick, slow, limit = 8, 16, 10 * time.Second
	for silent, want := range map[int]time.Duration{
		quick - 1:            0,
		quick:                time.Second,
		quick + slow:         3 * time.Second,
		quick + slow + quick: 4 * time.Second,
		5*quick + slow:       7 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := federation.NewPlaces(quick, slow)
			var mu sync.Mutex
			var all sync.WaitGroup
			var lasted []time.Duration
			for range silent {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					if ctx, leave, err := p.Enter(ctx); err == nil {
						began := time.Now()
						<-ctx.Done()
						leave()
						mu.Lock()
						lasted = append(lasted, time.Since(began))
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, leave, err := p.Enter(ctx)
			if err != nil || time.Since(began) > want+want/10 {
				t.Errorf("behind %d silent ones: waited %s, not %s: %v", silent, time.Since(began), want, err)
			} else {
				leave()
			}
			all.Wait()
			patient := 0
			for _, d := range lasted {
				if d > limit/4 {
					patient++
				}
			}
			if want := min(silent, slow); patient < want || len(lasted) != silent || slices.Min(lasted) < time.Second {
				t.Errorf("of %d silent ones %d were asked, %d of them for long, not %d", silent, len(lasted), patient, want)
			}
			if n := p.Taken(); n != 0 {
				t.Errorf("%d places are taken", n)
			}
		})
	}
}
