package netbuf_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/netbuf"
)

// pair returns the two ends of a connection of the named kind.
func pair(t testing.TB, kind string) (ours, theirs net.Conn) {
	t.Helper()
	if kind == "pipe" {
		ours, theirs = net.Pipe()
	} else {
		addr := "127.0.0.1:0"
		if kind == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(kind, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if theirs, err = net.Dial(kind, l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if ours, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func everyKind(t *testing.T, f func(t *testing.T, ours, theirs net.Conn)) {
	for _, kind := range []string{"tcp", "unix", "pipe"} {
		t.Run(kind, func(t *testing.T) {
			ours, theirs := pair(t, kind)
			deadline := time.Now().Add(10 * time.Second)
			ours.SetDeadline(deadline)
			theirs.SetDeadline(deadline)
			f(t, ours, theirs)
		})
	}
}

// fillTo calls Fill until n bytes are unread.
func fillTo(t *testing.T, r *netbuf.Reader, n int) {
	t.Helper()
	for len(r.Buffered()) < n {
		before := len(r.Buffered())
		if err := r.Fill(); err != nil {
			t.Fatalf("Fill at %d of %d bytes: %v", before, n, err)
		}
		if len(r.Buffered()) <= before {
			t.Fatalf("Fill returned nil and no byte at %d", before)
		}
	}
}

func TestReader_Fill(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		r := netbuf.NewReader(ours)
		if r.Buffered() != nil {
			t.Fatal("a new Reader has bytes")
		}
		go theirs.Write([]byte("KEYREQUEST"))
		fillTo(t, r, 10)
		r.Discard(3)
		if got := string(r.Buffered()); got != "REQUEST" {
			t.Fatalf("after Discard: %q", got)
		}
		go theirs.Write([]byte("-more"))
		fillTo(t, r, 12)
		if got := string(r.Buffered()); got != "REQUEST-more" {
			t.Fatalf("after a second Fill: %q", got)
		}
		r.Discard(12)
		if r.Buffered() != nil {
			t.Fatal("bytes left after all were discarded")
		}
	})
}

func TestReader_Fill_End(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		r := netbuf.NewReader(ours)
		go func() {
			theirs.Write([]byte("ab"))
			theirs.Close()
		}()
		fillTo(t, r, 2)
		for range 2 {
			if err := r.Fill(); err != io.EOF {
				t.Fatalf("Fill at the end: %v, want io.EOF", err)
			}
		}
		if got := string(r.Buffered()); got != "ab" {
			t.Fatalf("the end changed the unread bytes to %q", got)
		}
	})
}

func TestReader_Fill_Deadline(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		r := netbuf.NewReader(ours)
		ours.SetReadDeadline(time.Now().Add(-time.Second))
		if err := r.Fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Fill past the deadline: %v", err)
		}
		ours.SetReadDeadline(time.Now().Add(10 * time.Second))
		go theirs.Write([]byte("x"))
		fillTo(t, r, 1)
	})
}

func TestReader_Fill_Closed(t *testing.T) {
	ours, _ := pair(t, "tcp")
	r := netbuf.NewReader(ours)
	done := make(chan error, 1)
	go func() { done <- r.Fill() }()
	ours.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("Fill on a closed conn: %v", err)
	}
	if err := netbuf.NewReader(ours).Fill(); err == nil {
		t.Fatal("a Reader made on a closed conn has bytes")
	}
}

func TestReader_Fill_Reset(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	theirs.(*net.TCPConn).SetLinger(0)
	theirs.Close()
	err := netbuf.NewReader(ours).Fill()
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Fatalf("Fill after a reset: %v", err)
	}
}

func TestReader_Fill_Full(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		want := bytes.Repeat([]byte("0123456789abcdef"), netbuf.Size/16)
		go theirs.Write(append(bytes.Clone(want), 'x'))
		r := netbuf.NewReader(ours)
		fillTo(t, r, netbuf.Size)
		if err := r.Fill(); err != netbuf.ErrFull {
			t.Fatalf("Fill of a full buffer: %v", err)
		}
		if !bytes.Equal(r.Buffered(), want) {
			t.Fatal("the full buffer holds other bytes")
		}
		r.Discard(1)
		fillTo(t, r, netbuf.Size)
		if b := r.Buffered(); b[0] != '1' || b[netbuf.Size-1] != 'x' {
			t.Fatalf("after making room: first %q, last %q", b[0], b[netbuf.Size-1])
		}
	})
}

func TestReader_Discard_TooMuch(t *testing.T) {
	ours, _ := pair(t, "pipe")
	defer func() {
		if recover() == nil {
			t.Fatal("Discard of a byte that is not there did not panic")
		}
	}()
	netbuf.NewReader(ours).Discard(1)
}

// TestReader_Read sends pseudo-random bytes and takes them by every method in
// turn, small and large: the stream must come out whole and in order.
func TestReader_Read(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		want := make([]byte, 300_000)
		for i, x := 0, uint32(1); i < len(want); i++ {
			x = x*1664525 + 1013904223
			want[i] = byte(x >> 24)
		}
		go func() {
			theirs.Write(want)
			theirs.Close()
		}()
		r := netbuf.NewReader(ours)
		var got []byte
		sizes := []int{1, 100, netbuf.Size, 3, 3 * netbuf.Size, 0, 1500}
		for i := 0; ; i++ {
			b, err := r.ReadByte()
			if err == nil {
				got = append(got, b)
				p := make([]byte, sizes[i%len(sizes)])
				var n int
				n, err = r.Read(p)
				got = append(got, p[:n]...)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came out, not the %d that went in", len(got), len(want))
		}
	})
}

func TestReader_Reset(t *testing.T) {
	a, fromA := pair(t, "tcp")
	b, fromB := pair(t, "pipe")
	r := netbuf.NewReader(a)
	go fromA.Write([]byte("first"))
	fillTo(t, r, 5)
	r.Reset(b)
	if r.Buffered() != nil {
		t.Fatal("Reset kept unread bytes")
	}
	go fromB.Write([]byte("second"))
	fillTo(t, r, 6)
	if got := string(r.Buffered()); got != "second" {
		t.Fatalf("after Reset: %q", got)
	}
}

func TestReader_Fill_Allocs(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	r := netbuf.NewReader(ours)
	msg := []byte("NOOP\x00")
	allocs := testing.AllocsPerRun(200, func() {
		theirs.Write(msg)
		for len(r.Buffered()) < len(msg) {
			if err := r.Fill(); err != nil {
				t.Error(err)
				return
			}
		}
		r.Discard(len(msg))
	})
	// A garbage collection may empty the pool now and then; each Fill
	// allocating would be 1 or more.
	if allocs >= 1 && !raceEnabled {
		t.Fatalf("%v allocations per request", allocs)
	}
}

// TestReader_IdleMemory has many connections speak, then wait in Fill: none may
// still hold a buffer.
func TestReader_IdleMemory(t *testing.T) {
	const conns = 400
	before := inUse()
	spoken := make(chan error, conns)
	readers := make([]*netbuf.Reader, conns)
	clients := make([]net.Conn, conns)
	done := make(chan error, conns)
	for i := range readers {
		var ours net.Conn
		ours, clients[i] = pair(t, "tcp")
		r := netbuf.NewReader(ours)
		readers[i] = r
		go func() {
			err := r.Fill()
			r.Discard(len(r.Buffered()))
			spoken <- err
			done <- r.Fill()
		}()
		clients[i].Write([]byte("NOOP\x00"))
	}
	for range conns {
		if err := <-spoken; err != nil {
			t.Fatal(err)
		}
	}
	perConn := (int64(inUse()) - int64(before)) / conns
	t.Logf("%d bytes of heap and stack for each connection, both ends", perConn)
	// Both ends' net.Conn, a Reader and a goroutine's stack; with a buffer
	// held it would be 4 KiB more.
	if perConn > 5<<10 && !raceEnabled {
		t.Errorf("an idle connection that has spoken holds %d bytes", perConn)
	}
	for _, c := range clients {
		c.Close()
	}
	for range conns {
		if err := <-done; err != io.EOF {
			t.Fatal(err)
		}
	}
	runtime.KeepAlive(readers)
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second empties the pool's victim cache
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func BenchmarkReader_RequestReply(b *testing.B) {
	ours, theirs := pair(b, "tcp")
	go func() {
		r := netbuf.NewReader(ours)
		for r.Fill() == nil {
			ours.Write(r.Buffered())
			r.Discard(len(r.Buffered()))
		}
	}()
	msg := make([]byte, 30)
	b.ReportAllocs()
	for b.Loop() {
		theirs.Write(msg)
		if _, err := io.ReadFull(theirs, msg); err != nil {
			b.Fatal(err)
		}
	}
}

// What comes by a conn that is no plain socket is not read a byte at a time.
func TestReader_Read_Whole(t *testing.T) {
	ours, theirs := pair(t, "pipe")
	r := netbuf.NewReader(ours)
	go theirs.Write(make([]byte, 300))
	for left := 300; left > 0; left -= 100 {
		if n, err := r.Read(make([]byte, 100)); n != 100 || err != nil {
			t.Fatalf("read %d bytes, %v, want 100", n, err)
		}
	}
}
