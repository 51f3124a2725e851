package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/netbuf"
)

// A pump is a stream of two goroutines, one for each direction. It passes
// between any two conns; between sockets a loop does it for less.
type pump struct {
	client, backend net.Conn
	moves           atomic.Uint64
	up, down        atomic.Uint64 // bytes
	left            atomic.Bool   // the client has ended
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
	p.guard.cut = p.cut
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
				p.fail(to)
				return
			}
			p.moves.Add(1)
		}
		if err != nil {
			if to == p.backend {
				p.left.Store(true)
			}
			g.gone(p.left.Load(), func(farewell []byte) error {
				n, werr := to.Write(farewell)
				passed.Add(uint64(n))
				return werr
			})
			if err != io.EOF {
				p.cut()
			} else if closeWrite(to) != nil {
				p.fail(to)
			}
			return
		}
	}
}

func (p *pump) done() <-chan struct{} { return p.ended }
func (p *pump) moved() uint64         { return p.moves.Load() }

func (p *pump) bytes() (up, down uint64) { return p.up.Load(), p.down.Load() }

func (p *pump) failure() error { return p.guard.err }

// lastWords is how long a backend that takes no more may have something left to say.
const lastWords = time.Second

// fail ends both directions when nothing more can be written to a conn. What the backend has said before is read.
func (p *pump) fail(to net.Conn) {
	if to != p.backend || p.backend.SetReadDeadline(time.Now().Add(lastWords)) != nil {
		p.cut()
	}
}

// cut ends the client's conn first, so that nobody is told that the backend is gone.
func (p *pump) cut() {
	p.client.Close()
	p.backend.Close()
}
