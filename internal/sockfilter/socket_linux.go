package sockfilter

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func attach(l syscall.Conn, p []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(p))
	for i, in := range p {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return with(l, "SO_ATTACH_FILTER", func(fd int) error {
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)})
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: this kernel wants CAP_NET_ADMIN for it", err)
		}
		return err
	})
}

func detach(l syscall.Conn) error {
	return with(l, "SO_DETACH_FILTER", func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			err = nil // there was none
		}
		return err
	})
}

// drops is the place of the count in what SO_MEMINFO returns, which is so many words long (linux/sock_diag.h).
const (
	drops        = 8
	memInfoWords = 9
)

// Dropped returns how many packets for l the kernel has dropped since l was opened: what a filter names, and what finds no
// room in the queue of connections that wait to be accepted. It begins again after 4,294,967,295.
func Dropped(l syscall.Conn) (n uint32, err error) {
	err = with(l, "SO_MEMINFO", func(fd int) error {
		var info [memInfoWords]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errno
		}
		n = info[drops]
		return nil
	})
	return n, err
}

// with calls do with l's file descriptor.
func with(l syscall.Conn, option string, do func(fd int) error) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	var doErr error
	if err := raw.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	if doErr != nil {
		return fmt.Errorf("%s: %w", option, doErr)
	}
	return nil
}
