package spool_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// formers returns an Options.Former that has these keys.
func formers(keys ...*crypt.PrivateKey) func(crypt.PublicKey) (*crypt.PrivateKey, error) {
	return func(was crypt.PublicKey) (*crypt.PrivateKey, error) {
		for _, k := range keys {
			if k.Public() == was {
				return k, nil
			}
		}
		return nil, errors.New("no such key")
	}
}

// readsAll fails unless a spool holds exactly these texts.
func readsAll(s *spool.Spool, want map[string]bool) error {
	found := make(map[string]bool)
	for info, err := range s.All(0) {
		if err != nil {
			return err
		}
		data, err := read(s, info.ID)
		if err != nil {
			return err
		}
		if !want[string(data)] {
			return fmt.Errorf("message %s is %.30q", info.ID, data)
		}
		found[string(data)] = true
	}
	if len(found) != len(want) {
		return fmt.Errorf("%d of %d messages are there", len(found), len(want))
	}
	return nil
}

// Messages under three identities and three spool keys are one chain. The second identity never
// opened the spool: the server's key was changed twice while it was stopped.
func TestOpen_Former(t *testing.T) {
	fsys := durabletest.New()
	o := faultOptions(t, fsys, true)
	want := make(map[string]bool)
	first, skipped := key(t, 2), key(t, 3)
	for i, step := range []struct{ identity, key byte }{{2, 10}, {2, 11}, {4, 11}, {4, 12}, {5, 12}} {
		o.Identity, o.Key = key(t, step.identity), key(t, step.key)
		o.Former = formers(skipped, first, key(t, 4))
		s := open(t, "/spool", o)
		for n := range 4 {
			data := text(10*i+n, 900+700*n)
			mustStore(t, s, box(1), data)
			want[string(data)] = true
		}
		if s.Damage() != nil || s.Key() != o.Key.Public() {
			t.Errorf("step %d: %v", i, s.Damage())
		}
		if err := readsAll(s, want); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		s.Close()
		for n := byte(2); n < 6; n++ {
			r, err := spool.Verify(ctx, fsys, "/spool", key(t, n).Public(), nil)
			if err != nil || (r.Err() == nil) != (n == step.identity) || r.Foreign != (n != step.identity) || r.Identity != o.Identity.Public() {
				t.Errorf("step %d, verified for identity %d: %v, %v", i, n, err, r.Err())
			}
		}
	}
	o.Former = nil // it is not needed again
	head := open(t, "/spool", o).Head()
	if r, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil, head); err != nil || r.Err() != nil || r.Messages != uint64(len(want)) {
		t.Errorf("%+v, %v", r, err)
	}
}

// Nobody but the identity in force hands the spool on, and a spool that is refused stays as it was.
func TestOpen_Former_Refused(t *testing.T) {
	sp := newSpecimen(t)
	for name, former := range map[string]func(crypt.PublicKey) (*crypt.PrivateKey, error){
		"nobody":        nil,
		"not at hand":   formers(key(t, 77)),
		"somebody else": func(crypt.PublicKey) (*crypt.PrivateKey, error) { return key(t, 77), nil },
		"itself":        func(crypt.PublicKey) (*crypt.PrivateKey, error) { return key(t, 9), nil },
	} {
		o := sp.options
		o.Identity, o.Former = key(t, 9), former
		sp.fs.Inject(func(c durabletest.Call) durabletest.Fault {
			if c.Op == "write" || c.Op == "truncate" || c.Op == "rename" || c.Op == "remove" {
				t.Errorf("signed by %s: %s %s", name, c.Op, c.Path)
			}
			return durabletest.None
		})
		if _, err := spool.Open("/spool", o); !errors.Is(err, spool.ErrIdentity) {
			t.Errorf("signed by %s: %v", name, err)
		}
	}
	sp.fs.Inject(nil)
	if r := sp.verify(t, sp.head); r.Err() != nil || r.Head != sp.head {
		t.Errorf("%v", r.Err())
	}
}

// A key that was in force once cannot name the next one.
func TestVerify_Keys_Former(t *testing.T) {
	sp := newSpecimen(t)
	first, now := sp.options.Identity, key(t, 9)
	sp.options.Identity, sp.options.Former = now, formers(first)
	s := open(t, "/spool", sp.options)
	sp.head = s.Head()
	s.Close()
	path := newest(t, sp.fs)
	whole := contents(t, sp.fs, path)
	for _, tt := range []struct {
		before, identity *crypt.PrivateKey
		ok               bool
	}{{first, first, false}, {first, key(t, 10), false}, {now, first, true}} {
		replace(t, sp.fs, path, spool.ForgeKeys(whole, sp.head, s, sp.options.Key, tt.before, tt.identity))
		r, err := spool.Verify(ctx, sp.fs, "/spool", tt.identity.Public(), nil)
		if err != nil || (r.Err() == nil) != tt.ok {
			t.Errorf("accepted is not %v: %v, %v", tt.ok, err, r.Err())
		}
	}
}

// TestOpen_Former_Faults fails every durable call of the opening that changes both keys, then ends
// the process or the machine. The next opening has all messages and makes the change; where the first
// had not made it, the old keys still open the spool.
func TestOpen_Former_Faults(t *testing.T) {
	seeds := uint64(4)
	if raceEnabled {
		seeds = 2
	}
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			reached := false
			for seed := range seeds {
				fsys := durabletest.New()
				want := make(map[string]bool)
				old := faultOptions(t, fsys, true)
				s := open(t, "/spool", old)
				for i := range 5 {
					mustStore(t, s, box(1), text(i, 700+600*i))
					want[string(text(i, 700+600*i))] = true
				}
				s.Close()
				first := fsys.Calls()
				fsys.Inject(func(c durabletest.Call) durabletest.Fault {
					if c.N != first+n {
						return durabletest.None
					}
					reached = true
					return fault
				})
				if s, err := spool.Open("/spool", changed(t, old, fsys)); err == nil {
					s.Close()
				}
				if fsys = fsys.Kill(); seed > 0 {
					fsys = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(n))))
				}
				if err := finish(t, fsys, old, want); err != nil {
					t.Fatalf("call %d, fault %d, seed %d: %v", n, fault, seed, err)
				}
			}
			if !reached {
				break
			}
		}
	}
}

// changed are options with another identity and spool key.
func changed(t *testing.T, old spool.Options, fsys *durabletest.FS) spool.Options {
	o := old
	o.FS, o.Identity, o.Key, o.Former = fsys, key(t, 9), key(t, 10), formers(old.Identity)
	return o
}

// finish opens a spool in the middle of a change of keys: with the old ones, if they are in force,
// and with the new ones.
func finish(t *testing.T, fsys *durabletest.FS, old spool.Options, want map[string]bool) error {
	old.FS = fsys
	o := changed(t, old, fsys)
	r, err := spool.Verify(ctx, fsys, "/spool", old.Identity.Public(), nil)
	if err != nil || len(r.Damage) > 0 {
		return fmt.Errorf("before: %v, %w", r.Damage, err)
	}
	s, err := spool.Open("/spool", old)
	if err == nil {
		err = readsAll(s, want)
		s.Close()
	}
	if r.Foreign != errors.Is(err, spool.ErrIdentity) || (err != nil && !r.Foreign) {
		return fmt.Errorf("with the old keys, in force until %s: %w", r.Identity, err)
	}
	for range 2 {
		if s, err = spool.Open("/spool", o); err != nil {
			return err
		}
		err = readsAll(s, want)
		s.Close()
		if err != nil {
			return err
		}
	}
	r, err = spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil)
	return errors.Join(err, r.Err())
}
