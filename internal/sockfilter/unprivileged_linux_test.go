package sockfilter_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/sockfilter"
)

// Without privileges the kernel takes the filter, or the error says which one it wants.
func TestDrop_Unprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give up being root")
	}
	d := listen(t, "127.0.0.1:0")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: this thread alone gives up being root, and ends with the goroutine
		const nobody, same = 65534, ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, nobody, same); errno != 0 {
			done <- errno
			return
		}
		done <- sockfilter.Drop(d, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	}()
	if err := <-done; err != nil && (!errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "this kernel wants CAP_NET_ADMIN")) {
		t.Errorf("got %v", err)
	}
}
