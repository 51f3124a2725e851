package cmtptest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// Between puts somebody between clients and a server, both at host:port: it returns the
// address for clients, and calls do for each of them with a connection to either. Both
// are closed when do returns, and everything when the test is over.
func Between(t testing.TB, server string, do func(client, server *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				c.Close()
				continue
			}
			mu.Lock()
			open[c], open[s] = true, true
			mu.Unlock()
			all.Go(func() {
				do(c.(*net.TCPConn), s.(*net.TCPConn))
				for _, conn := range []net.Conn{c, s} {
					conn.Close()
					mu.Lock()
					delete(open, conn)
					mu.Unlock()
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// A Filter returns what is passed on in the place of p, the next bytes of one direction.
// After an error nothing more is, and the receiver sees the end. It may keep nothing of p.
type Filter func(p []byte) ([]byte, error)

// Pass passes everything on.
func Pass(p []byte) ([]byte, error) { return p, nil }

// Relay passes bytes on through the filters until both directions are over.
func Relay(client, server net.Conn, toServer, toClient Filter) {
	var both sync.WaitGroup
	both.Go(func() { relay(server, client, toServer) })
	both.Go(func() { relay(client, server, toClient) })
	both.Wait()
}

func relay(to, from net.Conn, filter Filter) {
	defer func() {
		if h, ok := to.(interface{ CloseWrite() error }); ok {
			h.CloseWrite()
		}
		io.Copy(io.Discard, from) // or the sender's close would become a reset
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			out, cut := filter(buf[:n])
			if _, err := to.Write(out); err != nil || cut != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Replace returns a Filter that puts a text in the place of another, the first time that
// it comes in one piece.
func Replace(before, after string) Filter {
	done := false
	return func(p []byte) ([]byte, error) {
		if done || !bytes.Contains(p, []byte(before)) {
			return p, nil
		}
		done = true
		return bytes.Replace(p, []byte(before), []byte(after), 1), nil
	}
}

// Records returns a Filter of the TLS records that come behind clear text. That ends
// behind the first occurrence of a word and a number of bytes more. edit is given every
// record, and its number from 0 on.
func Records(word string, more int, edit func(n int, record []byte) ([]byte, error)) Filter {
	var rest []byte
	n, inside := 0, false
	return func(p []byte) (out []byte, err error) {
		rest = append(rest, p...)
		if !inside {
			i := bytes.Index(rest, []byte(word))
			if i < 0 || len(rest) < i+len(word)+more {
				// The word may be cut, so what might be its beginning would have to be kept: no
				// sender here waits for more in the middle of it.
				return p, nil
			}
			inside = true
			clear := i + len(word) + more
			passed := len(rest) - len(p)
			out = append(out, rest[min(passed, clear):clear]...)
			rest = rest[clear:]
		}
		for len(rest) >= 5 {
			size := 5 + int(binary.BigEndian.Uint16(rest[3:]))
			if len(rest) < size {
				break
			}
			record := bytes.Clone(rest[:size])
			rest = rest[size:]
			edited, err := edit(n, record)
			out = append(out, edited...)
			if err != nil {
				return out, err
			}
			n++
		}
		return out, nil
	}
}
