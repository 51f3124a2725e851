package main_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

var (
	crashes   = flag.Int("crashes", 50, "how often TestServe_Crash kills the daemon under load")
	crashSeed = flag.Uint64("crashseed", rand.Uint64(), "the seed of TestServe_Crash")
)

// A crashTest is one server that is killed again and again.
type crashTest struct {
	*testing.T
	site    *cmtptest.Site
	ledger  *cmtptest.Ledger
	boxes   map[string]string // by account
	removed int
	doomed  string // path of a segment that waits for its compaction, if any
	before  []byte // its header
	hits    int    // kills before that was done
}

// TestServe_Crash kills the daemon by SIGKILL under load, at random moments: half of
// the time while it compacts, and sometimes in its recovery from the crash before. What
// SUCCESS was sent for is there afterwards, once and byte for byte, unless it was
// removed; what was removed stays so; what SUCCESS was not sent for is there whole or
// not at all.
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
		if i%2 == 0 {
			c.kill()
		} else {
			c.killCompacting()
		}
		if i%6 == 5 {
			c.killEarly()
		}
	}
	if c.hits < *crashes/3 {
		t.Errorf("only %d of %d kills came during a compaction", c.hits, *crashes)
	}
	c.remove()
	d := c.site.Start(t)
	if err := c.ledger.Resend(t.Context(), d.Shared[0]); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	c.verify()
	sent, acked := c.ledger.Counts()
	equal(t, "messages in the end", c.check(), sent-c.removed)
	t.Logf("%d kills under load, %d of them during a compaction; %d letters, %d acknowledged at once, %d removed, each other there once",
		*crashes, c.hits, sent, acked, c.removed)
}

// kill has a daemon recover from the crash before, looks at what that has left, and
// kills the next one under load.
func (c *crashTest) kill() {
	d := c.site.Start(c)
	c.verify() // beside it and its compaction
	d.Kill()
	c.check()
	c.killUnderLoad(c.site.Start(c), 400*time.Millisecond)
}

// killCompacting removes messages and kills the daemon while it gives their space back.
func (c *crashTest) killCompacting() {
	takes := c.remove()
	c.verify()
	c.check()
	c.killUnderLoad(c.site.Start(c), min(takes, 500*time.Millisecond))
}

// remove leaves a segment behind of which most was removed, and which the next daemon
// therefore rewrites. It returns how long that takes.
func (c *crashTest) remove() time.Duration {
	var filler []spool.ID
	c.change(0, func(s *spool.Spool) error {
		err := s.Compact(c.Context())
		for n := 0; n < 100 && err == nil; n++ { // a slow machine has not stored much
			w := s.NewWriter()
			w.Write(make([]byte, 60<<10)) // Commit has its error
			var st spool.Stored
			st, err = w.Commit(c.Context(), spool.Entry{Mailbox: spool.MailboxID{1}, Digest: [32]byte{byte(n)}})
			filler = append(filler, st.ID)
		}
		return err
	})
	dir := filepath.Join(c.site.Data, "spool", "log")
	names := entries(c.T, dir)
	c.doomed = filepath.Join(dir, names[len(names)-1].Name())
	c.change(4<<10, func(s *spool.Spool) error { // which ends that segment
		_, err := s.RemoveAll(c.Context(), filler, "test")
		n, removeErr := c.ledger.Remove(c.Context(), s, 0.9)
		c.removed += n
		return errors.Join(err, removeErr)
	})
	c.before = c.header(c.doomed)
	info, err := os.Stat(c.doomed)
	if err != nil {
		c.Fatal(err)
	}
	const rate = 16 << 20 // bytes a second that compaction reads
	return time.Duration(info.Size()) * time.Second / rate
}

// change opens the spool that no daemon has, and recovers it like one.
func (c *crashTest) change(segmentSize int64, do func(*spool.Spool) error) {
	o := spool.Options{FS: durable.OS, SegmentSize: segmentSize, CompactRate: -1}
	var err, identityErr error
	o.Key, err = keyfile.Load(filepath.Join(c.site.Data, "spool.key"))
	o.Identity, identityErr = keyfile.Load(filepath.Join(c.site.Data, "server.key"))
	if err := errors.Join(err, identityErr); err != nil {
		c.Fatal(err)
	}
	dir := filepath.Join(c.site.Data, "spool")
	s, err := spool.Open(dir, o)
	for end := time.Now().Add(10 * time.Second); errors.Is(err, durable.ErrLocked) && time.Now().Before(end); {
		// A process that another test has just forked holds this one's files, the last
		// lock too, until it becomes its own program. There is no signal of that.
		runtime.Gosched()
		s, err = spool.Open(dir, o)
	}
	if err != nil {
		c.Fatal(err)
	}
	equal(c.T, "files in tmp", len(entries(c.T, filepath.Join(dir, "tmp"))), 0)
	if err := errors.Join(do(s), s.Close()); err != nil {
		c.Fatal(err)
	}
}

// compacting reports whether what was killed has left a segment that it had begun to
// rewrite, and its copy.
func (c *crashTest) compacting() bool {
	if c.before == nil || !bytes.Equal(c.before, c.header(c.doomed)) {
		return false
	}
	dir := filepath.Join(c.site.Data, "spool", "tmp")
	for _, e := range entries(c.T, dir) {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			c.Fatal(err)
		}
		if len(b) == 0 || bytes.HasPrefix(b, []byte("CMTPSPL1")) {
			return true // nothing is written until there is a MiB of it
		}
	}
	return false
}

// header returns the header of a segment; compaction gives it another one.
func (c *crashTest) header(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil // merged with another
	}
	defer f.Close()
	b := make([]byte, 128)
	if _, err := io.ReadFull(f, b); err != nil {
		c.Fatal(err)
	}
	return b
}

// killUnderLoad kills a daemon at a random moment.
func (c *crashTest) killUnderLoad(d *cmtptest.Daemon, within time.Duration) {
	_, before := c.ledger.Counts()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	go func() { done <- c.ledger.Load(ctx, d.Shared[0], 16) }()
	moment := c.ledger.Moment(within)
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
	what := ""
	if c.compacting() {
		c.hits++
		what = " during a compaction"
	}
	sent, acked := c.ledger.Counts()
	c.Logf("killed%s after %v: %d acknowledged, now %d of %d", what, moment, acked-before, acked, sent)
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

// check holds a spool that no daemon has against what was sent, and returns how many
// messages there are.
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
	equal(c.T, "files in large", len(entries(c.T, filepath.Join(dir, "large"))), stats.Large)
	return stats.Messages
}

// verify has the whole chain proven.
func (c *crashTest) verify() {
	c.Helper()
	report := decode[struct {
		Torn   int `json:"unfinished_bytes"`
		Damage []string
	}](c.T, c.site.Must(c, "", "spool", "verify", "--json"))
	equal(c.T, "bytes behind the last commit", report.Torn, 0)
	equal(c.T, "damaged places", len(report.Damage), 0)
}

func entries(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	e, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
