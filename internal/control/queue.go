package control

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// Queue is what the command line does to the mail that waits for other servers. queue.Queue is one,
// and so is what Client.Queue returns.
type Queue interface {
	List(domain string, after spool.ID, n int) ([]queue.Entry, error)
	Show(id spool.ID) (queue.Entry, error)
	Summary(n int) (queue.Summary, error)
	Retry(ids []spool.ID) (n int, err error)
	RetryDomain(domain string) (n int, err error)
	RetryAll() (n int, err error)
	Hold(ids []spool.ID) (n int, err error)
	Release(ids []spool.ID) (n int, err error)
	Drop(ids []spool.ID, by string, report bool) (n int, err error)
}

// errAction: a command asks for what this daemon cannot do.
var errAction = errors.New("the queue knows no such action")

// action asks for something to be done to queued messages.
type action struct {
	Do     string     `json:"do"`
	IDs    []spool.ID `json:"ids,omitempty"`
	Domain string     `json:"domain,omitempty"`
	By     string     `json:"by,omitempty"`
	Report bool       `json:"report,omitempty"`
}

// HandleQueue lets a server that NewServer has made also show and change the queue. It is called
// before the server serves.
func HandleQueue(srv *http.Server, q Queue) {
	mux := http.NewServeMux()
	mux.Handle("/", srv.Handler)
	mux.HandleFunc("GET /queue", func(w http.ResponseWriter, req *http.Request) {
		after, err := strconv.ParseUint(req.FormValue("after"), 10, 64)
		if err != nil {
			answer(w, nil, fmt.Errorf("reading the request: %w", err))
			return
		}
		n, err := strconv.Atoi(req.FormValue("n"))
		if err != nil {
			answer(w, nil, fmt.Errorf("reading the request: %w", err))
			return
		}
		list, err := q.List(req.FormValue("domain"), spool.ID(after), min(n, queue.MaxEntries))
		answer(w, list, err)
	})
	mux.HandleFunc("GET /queue/summary", func(w http.ResponseWriter, req *http.Request) {
		n, err := strconv.Atoi(req.FormValue("n"))
		if err != nil {
			answer(w, nil, fmt.Errorf("reading the request: %w", err))
			return
		}
		s, err := q.Summary(n)
		answer(w, s, err)
	})
	mux.HandleFunc("GET /queue/{id}", func(w http.ResponseWriter, req *http.Request) {
		id, err := spool.ParseID(req.PathValue("id"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		e, err := q.Show(id)
		answer(w, e, err)
	})
	mux.HandleFunc("POST /queue", func(w http.ResponseWriter, req *http.Request) {
		var a action
		if read(w, req, &a) {
			about(req, "do", a.Do, "domain", a.Domain)
			aboutMessages(req, a.IDs)
			n, err := a.on(q)
			answer(w, n, err)
		}
	})
	srv.Handler = mux
}

// on carries the action out.
func (a *action) on(q Queue) (n int, err error) {
	switch a.Do {
	case "retry":
		return q.Retry(a.IDs)
	case "retry-domain":
		return q.RetryDomain(a.Domain)
	case "retry-all":
		return q.RetryAll()
	case "hold":
		return q.Hold(a.IDs)
	case "release":
		return q.Release(a.IDs)
	case "drop":
		return q.Drop(a.IDs, a.By, a.Report)
	}
	return 0, errAction
}

// Queue returns the queue of the daemon.
func (c *Client) Queue() Queue { return remoteQueue{c} }

type remoteQueue struct{ *Client }

// List returns a page, of queue.MaxEntries at most.
func (r remoteQueue) List(domain string, after spool.ID, n int) ([]queue.Entry, error) {
	values := url.Values{"after": {strconv.FormatUint(uint64(after), 10)}, "domain": {domain}, "n": {strconv.Itoa(n)}}
	return ask[[]queue.Entry](r.Client, http.MethodGet, "/queue?"+values.Encode(), nil)
}

func (r remoteQueue) Show(id spool.ID) (queue.Entry, error) {
	return ask[queue.Entry](r.Client, http.MethodGet, "/queue/"+id.String(), nil)
}

func (r remoteQueue) Summary(n int) (queue.Summary, error) {
	return ask[queue.Summary](r.Client, http.MethodGet, "/queue/summary?"+url.Values{"n": {strconv.Itoa(n)}}.Encode(), nil)
}

func (r remoteQueue) post(a action) (int, error) {
	return ask[int](r.Client, http.MethodPost, "/queue", a)
}

func (r remoteQueue) Retry(ids []spool.ID) (int, error) {
	return r.post(action{Do: "retry", IDs: ids})
}

func (r remoteQueue) RetryDomain(domain string) (int, error) {
	return r.post(action{Do: "retry-domain", Domain: domain})
}

func (r remoteQueue) RetryAll() (int, error) { return r.post(action{Do: "retry-all"}) }

func (r remoteQueue) Hold(ids []spool.ID) (int, error) {
	return r.post(action{Do: "hold", IDs: ids})
}

func (r remoteQueue) Release(ids []spool.ID) (int, error) {
	return r.post(action{Do: "release", IDs: ids})
}

func (r remoteQueue) Drop(ids []spool.ID, by string, report bool) (int, error) {
	return r.post(action{Do: "drop", IDs: ids, By: by, Report: report})
}
