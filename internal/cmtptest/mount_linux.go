package cmtptest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A Mount is a file system of its own, in a file that is mounted for the time of a test.
type Mount struct {
	Dir   string // where it is mounted
	image string
}

// NewMount makes a file system of a kind that mkfs knows, and mounts it. It needs root.
func NewMount(t testing.TB, kind string) *Mount {
	t.Helper()
	Need(t, "mkfs."+kind, "mount", "umount")
	if os.Geteuid() != 0 {
		LeaveOut(t, "a file system is mounted only by root")
	}
	dir := t.TempDir()
	m := &Mount{Dir: filepath.Join(dir, "mounted"), image: filepath.Join(dir, "image")}
	check(t, os.Mkdir(m.Dir, 0o700))
	check(t, os.WriteFile(m.image, nil, 0o600))
	check(t, os.Truncate(m.image, 512<<20)) // mkfs.xfs wants 300 MiB; what is not written takes no room
	check(t, command("mkfs."+kind, "-q", m.image))
	if err := m.mount(); err != nil {
		LeaveOut(t, err.Error()) // as in most containers
	}
	t.Cleanup(func() { check(t, m.unmount()) })
	return m
}

// Stop makes the file system fail every call from now on, and forget what is not on its disk
// yet, journal included: what a power cut does to it.
func (m *Mount) Stop(t testing.TB) {
	t.Helper()
	d, err := os.Open(m.Dir)
	check(t, err)
	defer d.Close()
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
		noLogFlush = 2
	)
	check(t, unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush))
}

// Restart mounts a file system again that nobody uses: it recovers as after a power cut.
func (m *Mount) Restart(t testing.TB) {
	t.Helper()
	check(t, m.unmount())
	check(t, m.mount())
}

func (m *Mount) mount() error { return command("mount", "-o", "loop", m.image, m.Dir) }

func (m *Mount) unmount() error { return command("umount", m.Dir) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}
