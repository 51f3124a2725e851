package shorebird_test

import (
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// sealed returns alice's keys as a server has them.
func sealed(t *testing.T, ring *xzibit.Keyring, u clienttest.User, p xzibit.Params) []byte {
	t.Helper()
	x, err := client.Seal(ring, parse(t, alice), []byte(secret), p, evaluate(t, u.Seed))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A device that has met an xzibit of version 3 takes none of version 2 of that account
// any more, and tries no password on it.
func TestRefresh_Downgrade(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	registered, v := h.registered(t, where)
	recovered := h.recovered(t, where)
	u := h.user(alice)
	u.Xzibit = seal(t, alice, h.Key.Public(), registered.ring(secret).Keys[0].Key)
	h.set(alice, u)
	for _, p := range []*person{registered, recovered} {
		for _, command := range []string{"send", "recover", "rotate", "passwd"} {
			args := map[string][]string{"send": {"send", bob}, "recover": {"recover", alice}}[command]
			if args == nil {
				args = []string{command}
			}
			p.want(trust, "x", args, "downgrade from version 3 to version 2", "the password was not tried", "keys "+alice+" --accept-new-key")
		}
		if ring := p.ring(secret); b64(ring.Keys[0].Key.Public()) != v.Key {
			t.Error("the keys were replaced")
		}
	}
	if n := h.sent(cmtp.Mail) + h.sent(cmtp.Upload); n > 0 {
		t.Errorf("%d letters and uploads", n)
	}
	h.recovered(t, where) // who has met nothing takes what there is
}

// An account that was reset is another one, once its owner says so: not when only the
// server does.
func TestRefresh_DowngradeAfterReset(t *testing.T) {
	h := privateHouse(t, bob)
	p, _ := h.registered(t, h.Start(t))
	u, key := h.user(alice), clienttest.Key(t)
	reset := u.History[0].Follow(key.Public(), 1_900_000_000)
	reset.Reset = true
	u.History = append(u.History, crypt.SignedKey{KeyStatement: reset})
	u.Key, u.Xzibit = key.Public(), seal(t, alice, h.Key.Public(), key)
	h.set(alice, u)
	p.want(trust, "", []string{"recover", alice}, "downgrade from version 3 to version 2")
	p.want(ok, "", []string{"keys", alice, "--accept-new-key"})
	p.want(ok, "", []string{"recover", alice})
	p.want(ok, "x", []string{"send", bob})

	// From there on it is as before.
	p.want(ok, "", []string{"passwd"})
	u = h.user(alice)
	u.Xzibit = seal(t, alice, h.Key.Public(), key)
	h.set(alice, u)
	p.want(trust, "", []string{"recover", alice}, "downgrade from version 3 to version 2")
}

// What costs less than every writer makes it was not made by an honest one.
func TestRefresh_Cheap(t *testing.T) {
	least := xzibit.Params{Time: 2, MemoryKiB: 16, Threads: 1}
	tests := map[string]struct {
		least, cost xzibit.Params
		code        int
	}{
		"Least":   {least, least, ok},
		"Passes":  {least, xzibit.Params{Time: 1, MemoryKiB: 1024, Threads: 1}, trust},
		"Memory":  {least, xzibit.Params{Time: 16, MemoryKiB: 15, Threads: 1}, trust},
		"Default": {xzibit.Params{}, xzibit.Params{Time: 2, MemoryKiB: 64 << 10, Threads: 1}, trust},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := privateHouse(t, bob, alice)
			p := h.recovered(t, h.Start(t))
			u := h.user(alice)
			ring := &xzibit.Keyring{Server: h.Key.Public(), Keys: []xzibit.KeyPair{{Key: h.keys[alice], Made: time.Unix(1, 0)}}}
			u.Xzibit = sealed(t, ring, u, tt.cost)
			h.set(alice, u)
			p.app.Least = tt.least
			unlocks := h.sent(cmtp.Unlock)
			for _, args := range [][]string{{"send", bob}, {"recover", alice}} {
				p.want(tt.code, "x", args)
				if tt.code != ok {
					p.want(tt.code, "x", args, "cost too little", "the password was not tried")
				}
			}
			if n := h.sent(cmtp.Unlock) - unlocks; (n > 0) != (tt.code == ok) {
				t.Errorf("%d UNLOCK", n)
			}
		})
	}
}
