// Package sockfilter has the kernel drop what some networks send to a listening socket, before a connection comes of
// it: socket(7), SO_ATTACH_FILTER. Linux asked for no privilege; 6.18.44 is a kernel that takes a TCP socket's filter from
// nobody but CAP_NET_ADMIN.
package sockfilter

import (
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/net/bpf"
)

// MaxNetworks is how many networks a filter can have: the kernel bounds a filter's length, and each packet is held
// to one network after the other.
const MaxNetworks = 64

// Where the filter finds the sender of a packet. A filter of a TCP socket sees the segment; what is counted from
// SKF_NET_OFF on is the IP header before it (linux/filter.h; RFC 791 section 3.1, RFC 8200 section 3).
const (
	ipHeader = 0xfff00000
	source4  = ipHeader + 12
	source6  = ipHeader + 8
)

// The kernel takes the number of bytes that are let through.
var (
	pass = bpf.RetConstant{Val: 1<<32 - 1}
	drop = bpf.RetConstant{}
)

// Drop has the kernel drop all that the networks send to l from now on, without an answer; of connections that it has
// made it drops nothing. The networks take the place of those before. With none, l hears everybody again. It returns an
// error that wraps errors.ErrUnsupported where the system has no such thing, and fs.ErrPermission where the kernel does not
// let this process.
func Drop(l syscall.Conn, networks []netip.Prefix) error {
	if len(networks) > MaxNetworks {
		return fmt.Errorf("a socket filter for %d networks: %d are the most", len(networks), MaxNetworks)
	}
	if len(networks) == 0 {
		return detach(l)
	}
	raw, err := bpf.Assemble(program(networks))
	if err != nil {
		return fmt.Errorf("a socket filter for %v: %w", networks, err)
	}
	return attach(l, raw)
}

// program drops what the networks send. A packet of IPv4 at a socket of both families is one of IPv4.
func program(networks []netip.Prefix) []bpf.Instruction {
	var four, six []bpf.Instruction
	for _, n := range networks {
		if n.Addr().Is4() {
			four = append(four, match(n, source4)...)
		} else {
			six = append(six, match(n, source6)...)
		}
	}
	four, six = append(four, pass), append(six, pass)
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: ipHeader, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(four))}, // a JumpIf does not reach so far
	}
	return append(append(p, four...), six...)
}

// match drops a packet whose sender, which stands at off, is in a network, and goes on with any other.
func match(n netip.Prefix, off uint32) (p []bpf.Instruction) {
	want := n.Masked().Addr().AsSlice()
	const loads = 3 // instructions for a word: load, mask, compare
	words := (n.Bits() + 31) / 32
	for i := range words {
		mask := ^uint32(0)
		if bits := n.Bits() - 32*i; bits < 32 {
			mask <<= 32 - bits
		}
		word := uint32(want[4*i])<<24 | uint32(want[4*i+1])<<16 | uint32(want[4*i+2])<<8 | uint32(want[4*i+3])
		rest := loads*(words-1-i) + 1 // with drop
		p = append(p,
			bpf.LoadAbsolute{Off: off + uint32(4*i), Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: word, SkipFalse: uint8(rest)})
	}
	return append(p, drop)
}
