package daemon_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/daemon"
)

// audience serves what a handler answers.
func audience(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(daemon.InTurns(h))
	daemon.Join(srv.Config)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// fetch returns what is answered on a connection of its own.
func fetch(t *testing.T, url string) (status int, body string) {
	return fetchBy(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}, url)
}

func fetchBy(t *testing.T, client *http.Client, url string) (status int, body string) {
	answer, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return answer.StatusCode, string(b)
}

// Who asks all the time takes turns with others: nobody is refused, and no more than two answers are made at once.
func TestAudience_Turns(t *testing.T) {
	var now, most atomic.Int32
	srv := audience(t, func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond) // what an answer takes
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "made")
	})
	var all sync.WaitGroup
	for range 15 {
		all.Go(func() {
			// It keeps its connection: new ones could be more than 16, as long as the server does not know of those that ended.
			kept := new(http.Transport)
			defer kept.CloseIdleConnections()
			client := &http.Client{Transport: kept, Timeout: time.Minute}
			for range 10 {
				if status, body := fetchBy(t, client, srv.URL); status != http.StatusTeapot || body != "made" {
					t.Errorf("answered %d, %q", status, body)
				}
			}
		})
	}
	all.Wait()
	if most.Load() != 2 {
		t.Errorf("%d answers were made at once", most.Load())
	}
}

// Who does not read what was asked for keeps nobody waiting, be it as many as there are connections.
func TestAudience_Slow(t *testing.T) {
	long := make([]byte, 4<<20) // more than sockets hold for who reads nothing
	made := make(chan struct{}, 16)
	srv := audience(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/long" {
			w.Write(long)
			made <- struct{}{}
		}
	})
	for range 16 {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		io.WriteString(c, "GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	for range 16 {
		select {
		case <-made:
		case <-time.After(time.Minute):
			t.Fatal("not all of the answers are made")
		}
	}
	if status, _ := fetch(t, srv.URL); status != http.StatusOK {
		t.Errorf("answered %d", status)
	}
}
