package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"

	"cmtpd/internal/spool"
)

// A change is what a request is about, in the words of its handler.
type change struct {
	about    []any // keys and values for the log
	messages []spool.ID
}

type changeKey struct{}

// about notes what a request changes, where its path does not say it. Nothing secret.
func about(req *http.Request, args ...any) {
	if c, ok := req.Context().Value(changeKey{}).(*change); ok {
		c.about = append(c.about, args...)
	}
}

// perLine is how many messages one line names at most.
const perLine = 32

// aboutMessages is about for messages, of which each has to be found in the log by its number.
func aboutMessages(req *http.Request, ids []spool.ID) {
	if c, ok := req.Context().Value(changeKey{}).(*change); ok {
		c.messages = ids
	}
}

// names returns the messages as they stand in the lines of the log, of which there is one at least.
func (c *change) names() (lines []string) {
	for ids := range slices.Chunk(c.messages, perLine) {
		lines = append(lines, strings.Trim(fmt.Sprint(ids), "[]"))
	}
	if len(lines) == 0 {
		return []string{""}
	}
	return lines
}

type peerKey struct{}

// Audit has a server that NewServer has made log every request that changes something, or may
// be a guess at a password: who asked, what for, and what came of it. It is called last,
// before the server serves.
func Audit(srv *http.Server, log *slog.Logger) {
	next := srv.Handler
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, peerKey{}, peerOf(c))
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet {
			next.ServeHTTP(w, req)
			return
		}
		c, seen := new(change), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, req.WithContext(context.WithValue(req.Context(), changeKey{}, c)))
		args := []any{"request", req.Method + " " + req.URL.Path, "done", seen.status == http.StatusOK}
		if peer, ok := req.Context().Value(peerKey{}).([]any); ok {
			args = append(args, peer...)
		}
		args = append(args, c.about...)
		for _, names := range c.names() {
			line := slices.Clip(args)
			if names != "" {
				line = append(line, "messages", names)
			}
			log.Info("asked over the control socket", line...)
		}
	})
}

// A statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
