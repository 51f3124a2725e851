package shorebird_test

import (
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

func privateHouse(t *testing.T, users ...string) *house {
	t.Helper()
	h := newHouse(t, users...)
	h.Private, h.Invitations = true, map[string]string{}
	for i, u := range users {
		user := h.Users[u]
		user.Seed = [oprf.SeedSize]byte{byte(i + 1)}
		ring := &xzibit.Keyring{Server: h.Key.Public(), Keys: []xzibit.KeyPair{{Key: h.keys[u], Made: time.Unix(1, 0)}}}
		x, err := client.Seal(ring, parse(t, u), []byte(secret), cheap, evaluate(t, user.Seed))
		if err != nil {
			t.Fatal(err)
		}
		user.Xzibit = x
		h.Users[u] = user
	}
	return h
}

func evaluate(t *testing.T, seed [oprf.SeedSize]byte) func(oprf.Element) (oprf.Element, error) {
	key, err := oprf.KeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return func(e oprf.Element) (oprf.Element, error) { return key.Evaluate(e) }
}

func parse(t *testing.T, s string) address.Address {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *house) set(addr string, u clienttest.User) {
	h.With(func() { h.Users[addr] = u })
}
