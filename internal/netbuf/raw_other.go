//go:build !unix

package netbuf

import (
	"net"
	"syscall"
)

// Elsewhere every conn is read by its own Read.
func rawConn(net.Conn) syscall.RawConn { return nil }

func (r *Reader) read(uintptr) bool { return true }

func (p *parking) read(uintptr) bool { return true }
