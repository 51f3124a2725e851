package daemon

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
)

const (
	// maxWatchers is how many connections there are at a time to who watches.
	maxWatchers = 16
	// maxAnswers is how many answers that take work are made at a time.
	maxAnswers = 2
)

// An audience bounds the connections to who watches. One more ends that which has asked nothing for the longest, and
// answers are made whole before they are sent, so nobody keeps others from watching: not by connections in silence,
// nor by reading slowly, as any program of this host could, and any page in a browser on it. Where all wait to be
// answered, the newest goes.
type audience struct {
	mu   sync.Mutex
	here []*watcher // under mu: who has asked nothing for the longest comes first
}

// turns bounds how many answers are made at a time, for all handlers that it was given. Others wait, which in an
// audience is for no client: who asks all the time has nobody refused.
type turns chan struct{}

func (t turns) of(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case t <- struct{}{}:
		case <-req.Context().Done():
			return
		}
		defer func() { <-t }()
		next.ServeHTTP(w, req)
	})
}

// A watcher is a connection of the audience.
type watcher struct {
	conn  net.Conn
	asked bool // under the audience's mu: an answer is still to be made
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
		made := &answer{header: make(http.Header), status: http.StatusOK}
		next.ServeHTTP(made, req)
		a.note(c, false)
		made.send(w)
	})
}

// An answer is one that is still to be sent. Like what net/http sends, it is what was written first.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
	begun  bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.begun {
		a.status, a.begun = status, true
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.body.Write(b)
}

func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes()) // whoever is gone misses it
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
