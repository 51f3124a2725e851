package relay_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/config"
	"cmtpd/internal/relay"
)

// TestRelay_Serve_Blackhole: a backend that does not even accept connections, so
// that none is refused either, costs the client no more than the timeout.
func TestRelay_Serve_Blackhole(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	r := relay.New(relay.Config{
		Hostname:       "mail.example",
		Backend:        fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port),
		Proxy:          config.ProxyV1,
		ConnectTimeout: 100 * time.Millisecond,
	})
	// The first fills the queue of the listener, the others find it full.
	for range 3 {
		s := serve(context.Background(), t, r, false, "EHLO a\r\n")
		if got := readAll(t, s); got != unavailable {
			t.Errorf("the client heard %q", got)
		}
	}
	if st := r.Stats(); st.Unavailable != 3 {
		t.Errorf("counted %+v", st)
	}
}
