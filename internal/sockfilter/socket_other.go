//go:build !linux

package sockfilter

import (
	"errors"
	"syscall"

	"golang.org/x/net/bpf"
)

func attach(syscall.Conn, []bpf.RawInstruction) error { return errors.ErrUnsupported }

func detach(syscall.Conn) error { return nil }

// Dropped returns how many packets for l the kernel has dropped, where that can be known: on Linux.
func Dropped(syscall.Conn) (uint32, error) { return 0, errors.ErrUnsupported }
