package setup

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A socket is one that listens, as /proc/net/tcp has it.
type socket struct {
	addr  netip.AddrPort
	inode string
}

// isListening is the state TCP_LISTEN of the kernel's include/net/tcp_states.h.
const isListening = "0A"

// listening returns the sockets that listen. It fails where the kernel's lists are not to be
// had at all.
func listening(files fs.FS) (all []socket, err error) {
	v4, err4 := fs.ReadFile(files, "proc/net/tcp")
	v6, err6 := fs.ReadFile(files, "proc/net/tcp6")
	if err4 != nil && err6 != nil {
		return nil, errors.Join(err4, err6)
	}
	for line := range strings.Lines(string(v4) + "\n" + string(v6)) {
		// sl local_address rem_address st queues timer retransmits uid timeout inode
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != isListening {
			continue
		}
		if addr, err := parseSocket(f[1]); err == nil {
			all = append(all, socket{addr, f[9]})
		}
	}
	return all, nil
}

// parseSocket reads an address of proc(5): each word of it in hexadecimal, in the byte order of
// the machine, and the port.
func parseSocket(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err == nil && len(b) != 4 && len(b) != 16 {
		err = fmt.Errorf("%q is no address", s)
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), err
}

// owner returns the executable of a process that has one of the sockets: of several (a service
// manager hands sockets on, and servers fork) one that is a mail server, then the oldest.
func owner(files fs.FS, sockets []socket) string {
	links, ok := files.(fs.ReadLinkFS)
	if !ok || len(sockets) == 0 {
		return ""
	}
	wanted := make(map[string]bool)
	for _, s := range sockets {
		wanted["socket:["+s.inode+"]"] = true
	}
	var found []string
	for _, pid := range processes(files) {
		fds := path.Join("proc", strconv.Itoa(pid), "fd")
		entries, err := fs.ReadDir(files, fds)
		if err != nil {
			continue // another user's, or gone
		}
		has := func(e fs.DirEntry) bool {
			to, err := links.ReadLink(path.Join(fds, e.Name()))
			return err == nil && wanted[to]
		}
		if !slices.ContainsFunc(entries, has) {
			continue
		}
		if exe, err := links.ReadLink(path.Join("proc", strconv.Itoa(pid), "exe")); err == nil {
			found = append(found, strings.TrimSuffix(exe, " (deleted)"))
		}
	}
	if found == nil {
		return ""
	}
	rank := func(exe string) int { return map[bool]int{true: 1, false: 0}[kindOfProgram(exe) == ""] }
	return slices.MinFunc(found, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
}

// processes returns the numbers of all processes, lowest first.
func processes(files fs.FS) (pids []int) {
	entries, err := fs.ReadDir(files, "proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// backendPorts are where a mail server could go. The first ones are the usual ones; filters
// that hand mail back to Postfix often have 10025.
var backendPorts = []uint16{10025, 10225, 10325, 10425}

// freeBackend returns an address of this host for the mail server: one at which nobody listens,
// and Postfix has not set anything either.
func (m Machine) freeBackend() string {
	sockets, _ := listening(m.Files)
	master, _ := fs.ReadFile(m.Files, masterCF)
	for _, port := range backendPorts {
		taken := slices.ContainsFunc(sockets, func(s socket) bool { return s.addr.Port() == port })
		if p := strconv.Itoa(int(port)); !taken && !strings.Contains(string(master), p) {
			return "127.0.0.1:" + p
		}
	}
	return ""
}

// metricsAt is where documents, alerts and the example for Prometheus have the status page and the metrics.
var metricsAt = netip.MustParseAddrPort("127.0.0.1:9125")

// freeMetrics returns that place, unless another program has it: cmtpd would not start.
func (m Machine) freeMetrics() string {
	sockets, _ := listening(m.Files)
	there := slices.DeleteFunc(sockets, func(s socket) bool {
		return s.addr.Port() != metricsAt.Port() || s.addr.Addr() != metricsAt.Addr() && !s.addr.Addr().IsUnspecified()
	})
	if len(there) > 0 && kindOfProgram(owner(m.Files, there)) != Cmtpd {
		return ""
	}
	return metricsAt.String()
}
