package control

import "net/http"

// Listeners are the addresses at which a running daemon takes connections, as host:port. They need not be those of
// its configuration: a service manager may have opened them.
type Listeners struct {
	Shared   []string `json:"addresses"`
	CMTPOnly []string `json:"cmtp_only"`
}

// HandleListeners lets a server that NewServer has made also tell where the daemon listens. It is called before the
// server serves.
func HandleListeners(srv *http.Server, all Listeners) {
	mux := http.NewServeMux()
	mux.Handle("/", srv.Handler)
	mux.HandleFunc("GET /listeners", func(w http.ResponseWriter, _ *http.Request) { answer(w, all, nil) })
	srv.Handler = mux
}

// Listeners returns where the daemon listens.
func (c *Client) Listeners() (Listeners, error) {
	return ask[Listeners](c, http.MethodGet, "/listeners", nil)
}
