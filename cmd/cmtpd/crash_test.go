package main_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

var (
	crashes   = flag.Int("crashes", 12, "how often TestServe_Crash kills the daemon")
	crashSeed = flag.Uint64("crashseed", rand.Uint64(), "the seed of TestServe_Crash")
)

// A crashTest is one server that is killed again and again.
type crashTest struct {
	*testing.T
	site   *cmtptest.Site
	ledger *cmtptest.Ledger
	boxes  map[string]string // by account
}

// TestServe_Crash kills the daemon by SIGKILL under load, at random moments, some
// of them in its recovery from the crash before. What SUCCESS was sent for is
// there afterwards, once and byte for byte; what it was not sent for is there
// whole or not at all.
func TestServe_Crash(t *testing.T) {
	t.Parallel()
	t.Logf("-crashseed %d", *crashSeed)
	const large = 64 << 10
	c := &crashTest{T: t, site: cmtptest.NewSite(t, cmtptest.Settings{
		"limits.large_message":  `"64KiB"`,
		"limits.message_memory": `"512KiB"`, // so that small messages meet the disk early, too
	}), boxes: map[string]string{}}
	c.site.Program = cmtptest.Release(t) // the faster it is, the more there is to lose
	accounts := []string{"alice", "bob", "carol"}
	c.site.AddUsers(t, accounts...)
	for _, a := range accounts {
		c.boxes[a] = decode[admin.UserView](t, c.site.Must(t, "", "user", "show", a+"@"+cmtptest.Domain, "--json")).ID
	}
	c.ledger = cmtptest.NewLedger(*crashSeed, large, accounts...)
	for i := range *crashes {
		c.kill()
		if i%3 == 2 {
			c.killEarly()
		}
	}
	d := c.site.Start(t)
	c.check()
	if err := c.ledger.Resend(t.Context(), d.Shared[0]); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	sent, acked := c.ledger.Counts()
	equal(t, "acknowledged in the end", acked, sent)
	equal(t, "messages in the end", c.check(), sent)
	t.Logf("%d letters, each there once", sent)
}

// kill starts the daemon, looks at what the crash before has left, and kills it
// under load.
func (c *crashTest) kill() {
	d := c.site.Start(c)
	c.check()
	_, before := c.ledger.Counts()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	go func() { done <- c.ledger.Load(ctx, d.Shared[0], 16) }()
	moment := c.ledger.Moment(600 * time.Millisecond)
	select {
	case <-time.After(moment):
	case err := <-done:
		c.Fatalf("the load ended before the daemon: %v\n%s", err, d.Log())
	}
	d.Kill()
	cancel()
	if err := <-done; err != nil {
		c.Errorf("under load: %v", err)
	}
	sent, acked := c.ledger.Counts()
	c.Logf("killed after %v: %d acknowledged, now %d of %d", moment, acked-before, acked, sent)
}

// killEarly kills the daemon somewhere between its beginning and its first
// connection.
func (c *crashTest) killEarly() {
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Millisecond+c.ledger.Moment(60*time.Millisecond))
	defer cancel()
	d, err := cmtptest.Launch(ctx, c.site.Program, c.site.Config)
	if err == nil {
		d.Kill()
	} else if ctx.Err() == nil {
		c.Fatal(err)
	}
}

// check holds the spool against what was sent, and returns how many messages
// there are.
func (c *crashTest) check() int {
	c.Helper()
	dir := filepath.Join(c.site.Data, "spool")
	s, err := spool.OpenReadOnly(dir, durable.OS)
	if err != nil {
		c.Fatal(err)
	}
	defer s.Close()
	if err := c.ledger.Check(s, c.boxes); err != nil {
		c.Fatal(err)
	}
	stats := s.Stats()
	equal(c.T, "files in tmp", len(entries(c.T, filepath.Join(dir, "tmp"))), 0)
	equal(c.T, "files in large", len(entries(c.T, filepath.Join(dir, "large"))), stats.Large)
	report := decode[struct {
		Messages int
		Torn     int `json:"unfinished_bytes"`
		Damage   []string
	}](c.T, c.site.Must(c, "", "spool", "verify", "--json"))
	equal(c.T, "messages that verify found", report.Messages, stats.Messages)
	equal(c.T, "bytes behind the last commit", report.Torn, 0)
	equal(c.T, "damaged places", len(report.Damage), 0)
	return stats.Messages
}

func entries(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	e, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
