package control_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/control"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

// serveTrust answers for a store on a real socket.
func serveTrust(t *testing.T) (*trust.Store, control.Trust) {
	t.Helper()
	store, err := trust.Open(t.TempDir(), trust.Options{FS: durable.OS})
	if err != nil {
		t.Fatal(err)
	}
	path := socketPath(t)
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := control.NewServer(openStore(t), aSpool{})
	control.HandleTrust(srv, store)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	client := control.Dial(path)
	if _, err := client.List(); err != nil {
		t.Fatalf("the users behind the same socket: %v", err)
	}
	return store, client.Trust()
}

// Across the socket everything is what it is without it, errors too.
func TestClient_Trust(t *testing.T) {
	store, remote := serveTrust(t)
	domain := mustAddress("x@example.net").Domain
	key := func(n byte) trust.Public { return trust.Public{PublicKey: newKey(t, n).Public()} }
	for n := byte(1); n <= 2; n++ {
		g := trust.Sighting{Shown: key(n).PublicKey, CMTP1: true, Record: trust.Record{Answer: trust.Absent, Successor: key(5).PublicKey}}
		if _, err := store.Judge(context.Background(), domain, g); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		want, _ := store.List()
		got, err := remote.List()
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, want)
		one, err := remote.Show(domain)
		if err != nil {
			t.Fatal(err)
		}
		same(t, one, want[0])
	}
	check()
	f := func(k trust.Public) trust.Fingerprint {
		f, err := trust.ParseFingerprint(k.String())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	other := mustAddress("x@example.com").Domain
	_, err := remote.Show(other)
	for what, tt := range map[string]struct{ got, want error }{
		"show a stranger": {err, trust.ErrUnknown}, "forget one": {remote.Forget(other), trust.ErrUnknown},
		"accept of one": {remote.Accept(other, f(key(2))), trust.ErrUnknown}, "accept another": {remote.Accept(domain, f(key(3))), trust.ErrNotHeld},
	} {
		if !errors.Is(tt.got, tt.want) || !strings.Contains(tt.got.Error(), "example.") {
			t.Errorf("%s: %v", what, tt.got)
		}
	}
	for _, act := range []func() error{
		func() error { return remote.Accept(domain, f(key(2))) },
		func() error { return remote.Pin(domain, key(4)) },
		func() error { return remote.Forget(domain) },
	} {
		if err := act(); err != nil {
			t.Fatal(err)
		}
		check()
	}
	e, err := remote.Show(domain)
	if err != nil || len(e.State.Actions) != 3 || time.Since(e.State.Actions[0].At) > time.Minute {
		t.Errorf("%+v, %v", e, err)
	}
	if err := remote.Pin(domain, trust.Public{}); err == nil {
		t.Error("an unusable key was pinned")
	}
	if err := remote.Accept(domain, trust.Fingerprint{}); err == nil {
		t.Error("no key was accepted")
	}
}
