package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns who is at the other end of a Unix socket, for the log: user and process, as
// the kernel knows them (unix(7), SO_PEERCRED).
func peerOf(c net.Conn) []any {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cerr != nil {
		return nil
	}
	return []any{"uid", cred.Uid, "pid", cred.Pid}
}
