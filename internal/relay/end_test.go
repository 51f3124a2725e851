package relay_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"cmtpd/internal/relay"
)

// TestRelay_Ended: who counts is told how a session ended and what it moved, small or large.
func TestRelay_Ended(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		for _, size := range []int{0, 1000, 4 << 20} {
			var ended relay.End
			cfg.Ended = func(e relay.End) { ended = e }
			s := serve(context.Background(), t, relay.New(cfg), wrap, "DATA\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			expect(t, m, "DATA\r\n")
			go func() {
				io.WriteString(s, strings.Repeat("x", size))
				s.CloseWrite()
			}()
			if n, err := io.Copy(io.Discard, m); n != int64(size) || err != nil {
				t.Fatal(n, err)
			}
			io.WriteString(m, "250 ok\r\n")
			m.Close()
			<-s.done
			if want := (relay.End{Outcome: relay.Passed, Up: uint64(size) + 6, Down: 8}); strip(ended) != strip(want) {
				t.Errorf("ended with %+v, want %+v", ended, want)
			}
		}
		var ended relay.End
		cfg.Ended = func(e relay.End) { ended = e }
		s := serve(context.Background(), t, relay.New(cfg), wrap, "NOOP\r\n")
		io.WriteString(b.accept(), "554 go away\r\n")
		<-s.done
		if ended.Outcome != relay.Refused {
			t.Errorf("a greeting that refuses: %+v", ended)
		}
		b.Close()
		s = serve(context.Background(), t, relay.New(cfg), wrap, "NOOP\r\n")
		<-s.done
		if ended.Outcome != relay.Unavailable {
			t.Errorf("without a mail server: %+v", ended)
		}
	})
}

// strip leaves what a test can know.
func strip(e relay.End) [3]any { return [3]any{e.Outcome, e.Up, e.Down} }
