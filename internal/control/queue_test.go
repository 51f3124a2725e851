package control_test

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/control"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// aQueue notes what it is asked for.
type aQueue struct {
	asked []any
	err   error
}

func (q *aQueue) ask(what ...any) (int, error) {
	q.asked = what
	return 7, q.err
}

var queued = queue.Entry{ID: spool.ID(5).String(), Domain: "example.net", Arrived: time.Unix(1, 0).UTC(), Attempts: 3, Reason: "no \x1b"}

func (q *aQueue) List(domain string, after spool.ID, n int) ([]queue.Entry, error) {
	q.ask(domain, after, n)
	return []queue.Entry{queued, {Next: &queued.Arrived}}, q.err
}

func (q *aQueue) Show(id spool.ID) (queue.Entry, error) {
	q.ask(id)
	return queued, q.err
}

var counted = queue.Summary{Time: time.Unix(9, 0).UTC(), AgeLimits: []int64{1}, Destinations: 2, Total: queue.Sum{Messages: 3, Ages: [...]int{1, 0, 0, 2, 0, 0}},
	Most: []queue.DestinationSum{{Domain: "example.net", Sum: queue.Sum{Messages: 2, Oldest: &queued.Arrived}, Status: 451, Reason: "no \x1b"}}, Others: queue.Sum{Messages: 1}}

func (q *aQueue) Summary(n int) (queue.Summary, error) {
	q.ask("summary", n)
	return counted, q.err
}

func (q *aQueue) Retry(ids []spool.ID) (int, error)      { return q.ask("retry", ids) }
func (q *aQueue) RetryDomain(domain string) (int, error) { return q.ask("domain", domain) }
func (q *aQueue) RetryAll() (int, error)                 { return q.ask("all") }
func (q *aQueue) Hold(ids []spool.ID) (int, error)       { return q.ask("hold", ids) }
func (q *aQueue) Release(ids []spool.ID) (int, error)    { return q.ask("release", ids) }
func (q *aQueue) Drop(ids []spool.ID, by string, report bool) (int, error) {
	return q.ask("drop", ids, by, report)
}

// Across the socket the queue is asked for what it is asked for without it.
func TestClient_Queue(t *testing.T) {
	local := &aQueue{}
	path := socketPath(t)
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := control.NewServer(openStore(t), aSpool{})
	control.HandleQueue(srv, local)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	remote := control.Dial(path).Queue()
	ids := []spool.ID{1, 1<<64 - 1}
	count := func(n int, err error) (any, error) { return n, err }
	for _, tt := range []struct {
		do    func() (any, error)
		asked []any
		want  any
	}{
		{func() (any, error) { return remote.List("example.net", 1<<64-1, 5) }, []any{"example.net", spool.ID(1<<64 - 1), 5}, []queue.Entry{queued, {Next: &queued.Arrived}}},
		{func() (any, error) { return remote.List("", 0, queue.MaxEntries+1) }, []any{"", spool.ID(0), queue.MaxEntries}, []queue.Entry{queued, {Next: &queued.Arrived}}},
		{func() (any, error) { return remote.Show(1<<64 - 1) }, []any{spool.ID(1<<64 - 1)}, queued},
		{func() (any, error) { return remote.Summary(7) }, []any{"summary", 7}, counted},
		{func() (any, error) { return count(remote.Retry(ids)) }, []any{"retry", ids}, 7},
		{func() (any, error) { return count(remote.RetryDomain("example.net")) }, []any{"domain", "example.net"}, 7},
		{func() (any, error) { return count(remote.RetryAll()) }, []any{"all"}, 7},
		{func() (any, error) { return count(remote.Hold(ids)) }, []any{"hold", ids}, 7},
		{func() (any, error) { return count(remote.Release(ids)) }, []any{"release", ids}, 7},
		{func() (any, error) { return count(remote.Drop(ids, "root", true)) }, []any{"drop", ids, "root", true}, 7},
	} {
		local.err = nil
		got, err := tt.do()
		if err != nil || !reflect.DeepEqual(got, tt.want) || !reflect.DeepEqual(local.asked, tt.asked) {
			t.Errorf("asked %v, got %+v, %v; want %v, %+v", local.asked, got, err, tt.asked, tt.want)
		}
		local.err = queue.ErrBusy
		if _, err := tt.do(); err == nil || !strings.Contains(err.Error(), queue.ErrBusy.Error()) {
			t.Errorf("%v: %v", tt.asked, err)
		}
	}
}
