package session_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"cmtpd/internal/session"
)

// bare answers every request of so many bytes with a reply of so many, and does
// nothing else: what the machine allows.
func bare(b *testing.B, request, reply int) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				in, out := bufio.NewReader(c), bufio.NewWriter(c)
				req, rep := make([]byte, request), make([]byte, reply)
				for {
					if _, err := io.ReadFull(in, req); err != nil {
						return
					}
					out.Write(rep)
					if in.Buffered() < request && out.Flush() != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// BenchmarkKeyRequest asks for a local user's key on 16 kept connections, with so
// many requests in flight on each. What counts is the ratio to the bare server.
func BenchmarkKeyRequest(b *testing.B) {
	request := key("alice", "cref.example")
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("bare/depth=%d", depth), func(b *testing.B) {
			askAll(b, bare(b, len(request), keyReply), request, depth)
		})
		b.Run(fmt.Sprintf("cmtpd/depth=%d", depth), func(b *testing.B) {
			askAll(b, serve(b, setup{cmtpOnly: true}).addr, request, depth)
		})
	}
}

func askAll(b *testing.B, addr, request string, depth int) {
	const conns = 16
	var requests []byte
	for range depth {
		requests = append(requests, request...)
	}
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			replies := make([]byte, depth*keyReply)
			<-begin
			for range b.N/conns/depth + 1 {
				if _, err := c.Write(requests); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(c, replies); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.ResetTimer()
	close(begin)
	wg.Wait()
	b.StopTimer()
}

// BenchmarkIdle reports what a session costs that has spoken and waits: heap and
// stack, without the client's share of them.
func BenchmarkIdle(b *testing.B) {
	const conns = 2000
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	dial := func(addr string) (all []net.Conn) {
		for range conns {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close() })
			all = append(all, c)
		}
		return all
	}
	for b.Loop() {
		// A listener that accepts nothing has clients only.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		start := memory()
		dial(l.Addr().String())
		client := memory() - start

		s := serve(b, setup{cmtpOnly: true, edit: func(cfg *session.Config) { cfg.Observer = nil }})
		start = memory()
		reply := make([]byte, keyReply)
		for _, c := range dial(s.addr) {
			io.WriteString(c, key("alice", ""))
			if _, err := io.ReadFull(c, reply); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(memory()-start-client)/conns, "B/conn")
	}
}
