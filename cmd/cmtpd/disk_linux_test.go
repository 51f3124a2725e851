package main_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/admin"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// smallDisk mounts a new ext4 file system of so many MiB for the time of a test. Where that
// cannot be done the test is left out, but not in CI.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size*mib), os.Mkdir(at, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			cmtptest.LeaveOut(t, "a disk that fills up needs root, mkfs.ext4 and loop devices: "+err.Error()+": "+string(out))
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", at, err, out)
		}
	})
	return at
}

// A diskTest is a server whose data lies on a small disk, beside something that can be deleted.
type diskTest struct {
	*testing.T
	site    *cmtptest.Site
	ledger  *cmtptest.Ledger
	boxes   map[string]string
	ballast string
}

func newDiskTest(t *testing.T, settings cmtptest.Settings) *diskTest {
	disk := smallDisk(t, 64)
	settings["data_dir"] = strconv.Quote(filepath.Join(disk, "data"))
	settings["limits.large_message"], settings["metrics.listen"] = `"64KiB"`, `"127.0.0.1:0"`
	c := &diskTest{T: t, site: cmtptest.NewSite(t, settings), ledger: cmtptest.NewLedger(7, 64<<10, "alice"),
		boxes: map[string]string{}, ballast: filepath.Join(disk, "ballast")}
	c.site.Data = filepath.Join(disk, "data")
	c.site.AddUsers(t, "alice")
	c.boxes["alice"] = decode[admin.UserView](t, c.site.Must(t, "", "user", "show", "alice@"+cmtptest.Domain, "--json")).ID
	f, err := os.Create(c.ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 20*mib); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *diskTest) free() uint64 {
	c.Helper()
	free, err := durable.FreeSpace(c.site.Data)
	if err != nil {
		c.Fatal(err)
	}
	return free
}

// check expects everything that was acknowledged, and nothing that is not whole.
func (c *diskTest) check() {
	c.Helper()
	s, err := spool.OpenReadOnly(filepath.Join(c.site.Data, "spool"), durable.OS)
	if err != nil {
		c.Fatal(err)
	}
	defer s.Close()
	if err := c.ledger.Check(s, c.boxes); err != nil {
		c.Error(err)
	}
	c.site.Must(c, "", "spool", "verify")
	sent, acked := c.ledger.Counts()
	c.Logf("%d letters, %d acknowledged, %d KiB free", sent, acked, c.free()>>10)
}

// accepted sends new letters until one is taken: the daemon looks at the disk once a second.
func (c *diskTest) accepted(d *cmtptest.Daemon) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 20*time.Second)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := c.ledger.Deliver(ctx, d.Shared[0])
		if err == nil {
			return
		}
		if !errors.Is(err, client.ErrRefused) {
			c.Fatalf("%v\n%s", err, d.Log())
		}
		<-again.C
	}
}

// TestServe_DiskFills fills a real disk under load. Mail is refused while there is still room for what
// was begun, and taken again once somebody makes room, by the same process.
func TestServe_DiskFills(t *testing.T) {
	t.Parallel()
	const need = 8 * mib
	c := newDiskTest(t, cmtptest.Settings{"limits.min_free_space": `"8MiB"`})
	d := c.site.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.ledger.Load(ctx, d.Shared[0], 8); !errors.Is(err, client.ErrRefused) || ctx.Err() != nil {
		t.Fatalf("the load ended with %v\n%s", err, d.Log())
	}
	d.Line(t, "level=ERROR", "message failed", "limits.min_free_space")
	if free := c.free(); free > need || free < need/2 {
		t.Errorf("%d KiB are free when mail is refused", free>>10)
	}
	if r := c.site.Run(t, "", "check"); r.Status != 3 || !strings.Contains(r.Out, "disk: mail is refused") {
		t.Errorf("the check of a full disk: %+v", r)
	}
	c.Logf("metric: %s bytes free", metric(t, d, "cmtpd_disk_free_bytes"))
	if err := os.Remove(c.ballast); err != nil {
		t.Fatal(err)
	}
	c.accepted(d)
	c.site.Must(t, "", "check")
	equal(t, "cmtpd_spool_failed", metric(t, d, "cmtpd_spool_failed"), "0")
	if err := c.ledger.Load(ctx, d.Shared[0], 8); !errors.Is(err, client.ErrRefused) {
		t.Errorf("the second load ended with %v", err)
	}
	for _, sign := range []string{"no space left", "spool has stopped"} {
		if strings.Contains(d.Log(), sign) {
			t.Errorf("it logged %q", sign)
		}
	}
	d.Stop(t)
	c.check()
}

// TestServe_DiskFull_Tiny has a limit that is too low to help, and another program that takes the rest
// of the disk in the middle of the daemon's work. Nothing that was acknowledged is lost. The daemon
// refuses what it can, and ends with word of the reason when the log itself cannot be written; a start
// on the full disk serves what there is, and takes mail again when there is room.
func TestServe_DiskFull_Tiny(t *testing.T) {
	t.Parallel()
	c := newDiskTest(t, cmtptest.Settings{"limits.min_free_space": `1`})
	d := c.site.Start(t)
	ends, met := 0, 0
	for range 100 {
		if err := c.ledger.Deliver(t.Context(), d.Shared[0]); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		rest, ended := c.squeeze(d)
		c.check()
		if ended {
			ends++
			met += strings.Count(d.Log(), "no space left on device")
			d = c.site.Start(t)
		}
		more := c.takeAll("more") // what a start may have given back
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := c.ledger.Deliver(ctx, d.Shared[0]); !errors.Is(err, client.ErrRefused) {
			t.Errorf("on a disk without a byte: %v", err)
		}
		cancel()
		if err := errors.Join(os.Remove(rest), os.Remove(more)); err != nil {
			t.Fatal(err)
		}
		c.accepted(d)
		if ends > 0 {
			break
		}
	}
	d.Stop(t)
	met += strings.Count(d.Log(), "no space left on device")
	t.Logf("the disk's end was met %d times, and ended the daemon %d times", met, ends)
	if met == 0 {
		t.Error("the disk's end was not met")
	}
	c.check()
}

// squeeze takes all that is left of the disk while letters come in. It returns what took it, and
// whether that has ended the daemon.
func (c *diskTest) squeeze(d *cmtptest.Daemon) (rest string, ended bool) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	loaded := make(chan error, 1)
	go func() { loaded <- c.ledger.Load(ctx, d.Shared[0], 8) }()
	rest = c.takeAll("rest")
	if err := <-loaded; (err != nil && !errors.Is(err, client.ErrRefused)) || ctx.Err() != nil {
		c.Fatalf("the load ended with %v, %v", err, ctx.Err())
	}
	if !spoolFailed(d) {
		return rest, false
	}
	if err := d.Wait(ctx); err == nil || !strings.Contains(d.Log(), "cmtpd: the spool cannot be written") {
		c.Fatalf("the daemon ended with %v\n%s", err, d.Log())
	}
	return rest, true
}

// spoolFailed asks a daemon, which may have ended because of that.
func spoolFailed(d *cmtptest.Daemon) bool {
	resp, err := http.Get("http://" + d.Metrics + "/metrics")
	if err != nil {
		return true
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return err != nil || strings.Contains(string(text), "\ncmtpd_spool_failed 1\n")
}

// takeAll fills the disk to its last block with a file.
func (c *diskTest) takeAll(name string) string {
	c.Helper()
	f, err := os.Create(filepath.Join(filepath.Dir(c.ballast), name))
	if err != nil {
		c.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			c.Fatal(err)
		}
	}
	return f.Name()
}
