package daemon

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
)

// maxWatchers is how many connections there are at a time to who watches.
const maxWatchers = 16

// An audience bounds the connections to who watches. One more ends that which has asked nothing for the longest, so nobody keeps others
// from watching by connections in silence, as any program of this host could, and any page in a browser on it. Where all are being answered,
// the newest goes.
type audience struct {
	mu   sync.Mutex
	here []*watcher // under mu: who has asked nothing for the longest comes first
}

// A watcher is a connection of the audience.
type watcher struct {
	conn  net.Conn
	asked bool // under the audience's mu: an answer is being made
}

type watcherKey struct{}

// join has an HTTP server keep to the bound.
func (a *audience) join(srv *http.Server) {
	srv.ConnState = a.state
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, watcherKey{}, c) }
	next := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c, _ := req.Context().Value(watcherKey{}).(net.Conn)
		a.note(c, true)
		defer a.note(c, false)
		next.ServeHTTP(w, req)
	})
}

// state is told of each connection when it comes, and when it is gone.
func (a *audience) state(c net.Conn, s http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s {
	case http.StateNew:
		a.here = append(a.here, &watcher{conn: c})
		if len(a.here) > maxWatchers {
			out := slices.IndexFunc(a.here, func(w *watcher) bool { return !w.asked })
			a.here[out].conn.Close() // there is one: who has just come
			a.here = slices.Delete(a.here, out, out+1)
		}
	case http.StateClosed, http.StateHijacked:
		a.here = slices.DeleteFunc(a.here, func(w *watcher) bool { return w.conn == c })
	}
}

// note notes that a connection has asked something, or was answered, which makes it the last one to go.
func (a *audience) note(c net.Conn, asked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.here, func(w *watcher) bool { return w.conn == c })
	if i < 0 {
		return
	}
	w := a.here[i]
	w.asked = asked
	a.here = append(slices.Delete(a.here, i, i+1), w)
}
