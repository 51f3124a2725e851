package relay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never block, so the scheduler is not told of them. If it were,
// its monitor would take the processor away from a loop whose write(2) runs
// through the whole of the kernel's TCP on a busy machine, and give it back
// later: measured, an eighth of all time.

func read(fd int, b []byte) (int, error) {
	return nonblocking(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
}

func write(fd int, b []byte) (int, error) {
	return nonblocking(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
}

func splice(from, to, n int) (int, error) {
	return nonblocking(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
}

func closeFD(fd int) { nonblocking(syscall.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0) }

// nonblocking makes a system call, again while a signal interrupts it.
//
//go:uintptrescapes
func nonblocking(trap, a1, a2, a3, a4, a5, a6 uintptr) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, a1, a2, a3, a4, a5, a6)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
