package main_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// TestServe_Large sends a message of 2 GiB with attachments, made as it is sent.
// The daemon's memory does not grow with it, and what lies on disk is what was sent.
func TestServe_Large(t *testing.T) {
	if testing.Short() {
		t.Skip("LEFT OUT because of -short: 2 GiB through the real daemon in constant memory")
	}
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.max_message_size": `"3GiB"`})
	site.Program = cmtptest.Release(t) // the race detector's memory is not ours
	needSpace(t, site.Dir, 2*gib+512*mib)
	site.AddUsers(t, "alice")
	d := site.Start(t)
	for seed := range uint64(4) { // so that pools and stacks have the size that messages need
		deliver(t, d, &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: seed, Length: 4 * mib}, {Seed: seed, Length: mib}}})
	}
	before := highWater(t, d.PID)
	huge := &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{
		{Seed: 11, Length: mib}, {Seed: 12, Length: 48}, {Seed: 13, Length: gib}, {Seed: 14, Length: gib},
	}}
	hashed := make(chan string, 1)
	go func() { hashed <- fmt.Sprintf("%x", huge.Sum()) }()
	began := time.Now()
	deliver(t, d, huge)
	grown := highWater(t, d.PID) - before
	t.Logf("%d bytes in %v; resident memory grew from %d KiB by %d KiB", huge.Size(), time.Since(began).Round(time.Millisecond), before>>10, grown>>10)
	if grown >= 16*mib {
		t.Errorf("memory grew by %d MiB", grown/mib)
	}
	sum := <-hashed
	messages := decode[[]admin.MessageView](t, site.Must(t, "", "spool", "list", "--json"))
	last := messages[len(messages)-1].ID
	shown := decode[admin.MessageView](t, site.Must(t, "", "spool", "show", last, "--json"))
	equal(t, "size", shown.Size, huge.Size())
	equal(t, "SHA-256 that the spool vouches for", shown.SHA256, sum)
	equal(t, "attachments", shown.Attachments, 3)
	equal(t, "SHA-256 of the file", sumOfLargest(t, filepath.Join(site.Data, "spool", "large")), sum)
	d.Stop(t)
}

// TestServe_TooLarge: a message of one byte too many is refused before any of its
// body is read, or of the attachment that makes it too large; one of exactly the
// limit is waited for.
func TestServe_TooLarge(t *testing.T) {
	const limit = 3 * gib
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.max_message_size": `"3GiB"`})
	d := site.Start(t)
	overhead := toServer(0).Size()
	body := limit - overhead
	attachment := body - 48 - 8
	for _, tt := range []struct {
		name, sent, fate string
	}{
		{"body at the limit", announce(body), "broken"},
		{"body beyond", announce(body + 1), "refused"},
		{"attachment at the limit", announce(48, attachment), "broken"},
		{"attachment beyond", announce(48, attachment+1), "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := greeted(t, d.Shared[0])
			c.send(t, tt.sent)
			if tt.fate == "refused" {
				c.failure(t)
			}
			c.CloseWrite() // what is waited for does not come
			c.end(t)
			d.Line(t, "message "+tt.fate, c.LocalAddr().String())
		})
	}
	equal(t, "files in large", len(entries(t, filepath.Join(site.Data, "spool", "large"))), 0)
	equal(t, "files in tmp", len(entries(t, filepath.Join(site.Data, "spool", "tmp"))), 0)
	d.Stop(t)
}

// toServer returns a letter to the server itself.
func toServer(lengths ...int64) *cmtptest.Letter {
	l := new(cmtptest.Letter)
	for _, n := range lengths {
		l.Parts = append(l.Parts, cmtptest.Noise{Length: n})
	}
	return l
}

// announce returns MAIL and a message to the server itself up to where its last
// part, whose length has been announced, would begin.
func announce(lengths ...int64) string {
	l := toServer(lengths...)
	h := l.Header()
	b := append(h.Append([]byte("MAIL\x00")), 0)
	if len(lengths) > 1 {
		b = append(b, make([]byte, lengths[0])...)
		b = binary.BigEndian.AppendUint64(b, uint64(lengths[1]))
	}
	return string(b)
}

// deliver sends a letter, which the server must accept.
func deliver(t *testing.T, d *cmtptest.Daemon, l *cmtptest.Letter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := cmtptest.Deliver(ctx, d.Shared[0], l); err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
}

// needSpace fails where a disk has too little room: a machine that runs the tests
// has to have it.
func needSpace(t *testing.T, dir string, need uint64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		t.Fatalf("%s has %d MiB free, and this test needs %d MiB", dir, free/mib, need/mib)
	}
}

// highWater returns the most memory that a process ever had resident, in bytes.
func highWater(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("there is no VmHWM")
	return 0
}

func sumOfLargest(t *testing.T, dir string) string {
	t.Helper()
	var name string
	var size int64
	for _, e := range entries(t, dir) {
		if info, err := e.Info(); err == nil && info.Size() > size {
			name, size = e.Name(), info.Size()
		}
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
