package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"cmtpd/internal/netbuf"
)

// A pump is a stream of two goroutines, one for each direction. It passes
// between any two conns; between sockets a loop does it for less.
type pump struct {
	client, backend net.Conn
	moves           atomic.Uint64
	up, down        atomic.Uint64 // bytes
	guard           guard         // of what the backend says
	ended           chan struct{}
}

// startPump connects to the backend and starts a pump between it and c.
func (r *Relay) startPump(ctx context.Context, c *netbuf.Conn) (stream, error) {
	backend, in, err := r.connect(ctx, c)
	if err != nil {
		return nil, err
	}
	return newPump(c.Conn, backend, c.In, in, r.guard(c.In.Buffered())), nil
}

func newPump(client, backend net.Conn, fromClient, fromBackend *netbuf.Reader, g guard) *pump {
	p := &pump{client: client, backend: backend, guard: g, ended: make(chan struct{})}
	var directions sync.WaitGroup
	directions.Go(func() { p.copy(backend, fromClient, &p.up, new(guard)) })
	directions.Go(func() { p.copy(client, fromBackend, &p.down, &p.guard) })
	go func() {
		directions.Wait()
		p.cut()
		close(p.ended)
	}()
	return p
}

// copy passes bytes until in ends, and then that end. When either conn fails,
// both directions end.
func (p *pump) copy(to net.Conn, in *netbuf.Reader, passed *atomic.Uint64, g *guard) {
	defer in.Release()
	buf := make([]byte, 4*netbuf.Size)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			b, last := g.look(buf[:n])
			if last {
				err = io.EOF
			}
			n, werr := to.Write(b)
			passed.Add(uint64(n))
			if werr != nil {
				p.cut()
				return
			}
			p.moves.Add(1)
		}
		if err != nil {
			if err != io.EOF || closeWrite(to) != nil {
				p.cut()
			}
			return
		}
	}
}

func (p *pump) done() <-chan struct{} { return p.ended }
func (p *pump) moved() uint64         { return p.moves.Load() }

func (p *pump) bytes() (up, down uint64) { return p.up.Load(), p.down.Load() }

func (p *pump) unheard() bool { return p.guard.met }

func (p *pump) cut() {
	p.client.Close()
	p.backend.Close()
}
