package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"cmtpd/internal/status"
)

// listenMetrics serves the metrics and the status page where the configuration says so.
func (d *daemon) listenMetrics(ctx context.Context) error {
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", d.cfg.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("listening for metrics.listen: %w", err)
	}
	d.listens = append(d.listens, l)
	d.log.Info("metrics", "address", l.Addr().String())
	srv := &http.Server{Handler: d.watchers(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	new(audience).join(srv)
	d.serving = append(d.serving, serveHTTP(srv, l))
	return nil
}

// watchers answers who watches. It changes nothing, whatever is asked.
func (d *daemon) watchers() http.Handler {
	mux := http.NewServeMux()
	work := make(turns, maxAnswers)
	mux.Handle("GET /metrics", work.of(d.metrics.Handler()))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		state, ready := d.state()
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s: %s\n", state.Word, state.Reason)
	})
	mux.Handle("/{$}", work.of(status.Handler(d.page)))
	return d.onlyOwnNames(mux)
}

// onlyOwnNames refuses a request that names another host: a page of anybody's, in the browser of somebody who can
// reach this address, may have a name of its own lead here (DNS rebinding). An address is no name.
func (d *daemon) onlyOwnNames(next http.Handler) http.Handler {
	configured, _, _ := net.SplitHostPort(d.cfg.Metrics.Listen) // it was validated
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
		_, err := netip.ParseAddr(host)
		if err != nil && host != "localhost" && host != d.cfg.Hostname.String() && (host != strings.ToLower(configured) || host == "") {
			http.Error(w, "This server does not go by that name: ask for localhost, an address, or its hostname.", http.StatusMisdirectedRequest)
			return
		}
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, req)
	})
}
