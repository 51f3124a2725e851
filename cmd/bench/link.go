package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The line that a link is: what an Ethernet of that rate carries each way, with all that it adds to a packet.
const (
	linkRate  = 125e6 // bytes a second: 1 Gbit/s
	linkMTU   = 1500
	linkFrame = 38 // bytes around a packet: preamble, header, checksum, gap (IEEE 802.3)
	linkQueue = 1 << 16
	// Of the addresses that are for benchmarks (RFC 2544).
	linkHere  = "198.18.0.1"
	linkThere = "198.18.0.2"
)

// A link leads from one network to another, both of their own: peers run in one, and who dials them does it from the
// other. It is made of two TUN devices and a process that carries packets between them, late and no faster than an
// Ethernet would: every kernel that has namespaces can do that, where few have all of tc's queues. The host's own
// network does not know of it.
type link struct {
	near, far string // their namespaces' files
	ports     int    // that addr has given
}

// linked is the link that has been made, which dialTCP takes to its addresses.
var linked atomic.Pointer[link]

// errNoLink says that this machine cannot have a link, and why.
var errNoLink = errors.New("no link can be made here")

// link makes a link with a round trip of so long. It is gone with the lab.
func (l *lab) link(trip time.Duration) (*link, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: that takes root", errNoLink)
	}
	for _, tool := range []string{"ip", "nice", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoLink, err)
		}
	}
	me, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("nice", "-n", "-20", me, "-role", "link", trip.String()) // no line waits for a processor
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if _, err := cmd.StdinPipe(); err != nil { // whose end, also with us, is the link's
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l.procs = append(l.procs, cmd)
	word, err := bufio.NewReader(out).ReadString('\n')
	word = strings.TrimSpace(word)
	if err != nil || !strings.HasPrefix(word, "/") {
		return nil, fmt.Errorf("%w: %s", errNoLink, word)
	}
	k := new(link)
	k.near, k.far, _ = strings.Cut(word, " ")
	linked.Store(k)
	return k, nil
}

// through is what runs a program at the far end; of no link, nothing.
func (k *link) through() []string {
	if k == nil {
		return nil
	}
	return []string{"nsenter", "--net=" + k.far}
}

// addr returns an address at the far end that nobody has.
func (k *link) addr() string {
	k.ports++
	return fmt.Sprintf("%s:%d", linkThere, 2524+k.ports)
}

// dialTCP connects, over the link to what is behind it.
func dialTCP(ctx context.Context, d net.Dialer, addr string) (c net.Conn, err error) {
	k := linked.Load()
	if k == nil || !strings.HasPrefix(addr, linkThere+":") {
		return d.DialContext(ctx, "tcp", addr)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread stays in the link's network, and ends with this function
		var fd int
		if fd, err = unix.Open(k.near, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
			c, err = d.DialContext(ctx, "tcp", addr)
		}
	}()
	<-done
	return c, err
}

// serveLink is the process that a link is. It says which namespaces are at its ends, or why there is no link, and lasts
// until its input ends.
func serveLink(trip string) error {
	d, err := time.ParseDuration(trip)
	if err != nil {
		return err
	}
	here, near, err := endTUN(linkHere, linkThere)
	var there *os.File
	var far string
	if err == nil {
		there, far, err = endTUN(linkThere, linkHere)
	}
	if err != nil {
		fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		return err
	}
	fmt.Println(near, far)
	ended := make(chan error, 5)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	carry(here, there, d/2, ended)
	carry(there, here, d/2, ended)
	return <-ended
}

// endTUN makes a namespace with a device in it. Its thread is one that nothing else runs on.
func endTUN(addr, peer string) (f *os.File, network string, err error) {
	made := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			network = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			if err = ip("link", "set", "lo", "up"); err == nil {
				f, err = openTUN(addr, peer)
			}
		}
		close(made)
		select {} // the namespace lasts as long as the thread
	}()
	<-made
	return f, network, err
}

// openTUN makes a device with an address in the network of the calling thread. Packets have virtio's head, by which the
// kernel hands over up to 64 KiB at once, as network cards have it do, and leaves checksums away.
func openTUN(addr, peer string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	const name = "cmtpd-bench"
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	}
	for _, args := range [][]string{
		{"addr", "add", addr, "peer", peer, "dev", name},
		{"link", "set", name, "mtu", fmt.Sprint(linkMTU), "txqueuelen", fmt.Sprint(linkQueue), "up"},
	} {
		if err == nil {
			err = ip(args...)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making a TUN device: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// ip runs iproute2's ip in the network of the calling thread.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// A parcel is a packet under way.
type parcel struct {
	buf *[]byte
	due time.Time
}

// parcels have room for what a TUN device gives at once.
var parcels = sync.Pool{New: func() any {
	b := make([]byte, virtioHead+1<<16)
	return &b
}}

// carry takes packets from one device to the other. Each leaves when those before it have, and arrives so much later.
func carry(from, to *os.File, late time.Duration, failed chan<- error) {
	queue := make(chan parcel, linkQueue)
	go func() {
		var free time.Time // when the line is
		for {
			b := parcels.Get().(*[]byte)
			n, err := from.Read((*b)[:cap(*b)])
			if err != nil {
				failed <- fmt.Errorf("taking a packet: %w", err)
				return
			}
			*b = (*b)[:n]
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(float64(onLine(*b)) / linkRate * float64(time.Second)))
			queue <- parcel{b, free.Add(late)}
		}
	}()
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(*p.buf); err != nil {
				failed <- fmt.Errorf("handing a packet over: %w", err)
				return
			}
			parcels.Put(p.buf)
		}
	}()
}

// virtioHead is the length of struct virtio_net_hdr (virtio 1.2 section 5.1.6).
const virtioHead = 10

// onLine returns how many bytes a packet is on the line: one that is to be cut is several there.
func onLine(b []byte) int {
	if len(b) < virtioHead {
		return 0
	}
	n := len(b) - virtioHead
	heads, each := int(binary.NativeEndian.Uint16(b[2:])), int(binary.NativeEndian.Uint16(b[4:]))
	if each == 0 || n <= heads {
		return n + linkFrame
	}
	cuts := (n - heads + each - 1) / each
	return n + (cuts-1)*heads + cuts*linkFrame
}
