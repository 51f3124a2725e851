package account_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
)

// A file that is no account is named, and all of them are; none is left out in
// silence, since that user's mail would be turned away.
func TestOpen_BadFiles(t *testing.T) {
	dir := t.TempDir()
	a := mustAdd(t, open(t, dir, durable.OS), "alice@example.org", 2)
	name := a.ID.String() + ".json"
	good, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 31) + "2"
	edit := func(change func(m map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for what, files := range map[string]map[string]string{
		"empty":               {name: ""},
		"truncated":           {name: string(good[:len(good)/2])},
		"one byte short":      {name: strings.TrimSuffix(string(good), "}\n")},
		"something behind":    {name: string(good) + "x"},
		"not JSON":            {name: "hello"},
		"wrong name":          {other + ".json": string(good)},
		"name in upper case":  {strings.ToUpper(a.ID.String()) + ".json": string(good)},
		"no ID":               {strings.Repeat("0", 32) + ".json": edit(func(m map[string]any) { delete(m, "id") })},
		"the operator's ID":   {account.Operator.String() + ".json": edit(func(m map[string]any) { m["id"] = account.Operator.String() })},
		"long ID":             {name: edit(func(m map[string]any) { m["id"] = a.ID.String() + "00" })},
		"no address":          {name: edit(func(m map[string]any) { delete(m, "address") })},
		"bad address":         {name: edit(func(m map[string]any) { m["address"] = "../../etc@example.org" })},
		"bad key":             {name: edit(func(m map[string]any) { m["key"] = make([]byte, 32) })},
		"no key":              {name: edit(func(m map[string]any) { delete(m, "key") })},
		"bad xzibit":          {name: edit(func(m map[string]any) { m["xzibit"] = a.Xzibit[:50] })},
		"too long":            {name: string(good) + strings.Repeat(" ", 1<<20)},
		"duplicate address":   {name: string(good), other + ".json": edit(func(m map[string]any) { m["id"] = other })},
		"two that are broken": {name: "", other + ".json": ""},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := account.Open(dir, durable.OS, seeded(t, 1), now)
			if err == nil {
				t.Fatal("opened")
			}
			for name := range maps.Keys(files) {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%q does not name %s", err, name)
				}
			}
		})
	}
}

// An operator's own files are left alone; what an atomic write has left is taken
// away, since a xzibit lies in it.
func TestOpen_OtherFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"README", "old.json.bak", ".hidden", ".abc.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := dump(t, open(t, dir, durable.OS)); got != "[]" {
		t.Errorf("the store holds %s", got)
	}
	for name, want := range map[string]bool{"README": true, "old.json.bak": true, ".hidden": true, ".abc.tmp": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}

// Changes are made one after another while one call to the disk fails, and the
// power is cut. What was reported done is there, what failed is there whole or not
// at all, and a store that cannot know which changes nothing any more.
func TestStore_Faults(t *testing.T) {
	calls := runFault(t, 0, durabletest.None, nil)
	if calls < 20 {
		t.Fatalf("only %d calls to the disk", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
			for seed := range uint64(3) {
				t.Run(fmt.Sprintf("call %d/fault %d/crash %d", n, fault, seed), func(t *testing.T) {
					runFault(t, n, fault, rand.New(rand.NewPCG(seed, uint64(n))))
				})
			}
		}
	}
}

// state is what an account can be seen to be: absent, or its xzibit and whether it
// is disabled.
type state string

func stateOf(t *testing.T, s *account.Store, addr string) state {
	t.Helper()
	a, err := s.Get(mustAddress(addr))
	if errors.Is(err, account.ErrUnknown) {
		return "absent"
	}
	if err != nil {
		t.Fatal(err)
	}
	return state(fmt.Sprintf("%x %v", a.Xzibit, a.Disabled))
}

func runFault(t *testing.T, n int, fault durabletest.Fault, r *rand.Rand) (calls int) {
	t.Helper()
	fsys := durabletest.New()
	s := open(t, "/accounts", fsys)
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.N == first+n {
			return fault
		}
		return durabletest.None
	})
	const a, b = "a@example.org", "b@example.org"
	registrations := map[string]account.Registration{a: register(t, a, 2), b: register(t, b, 3)}
	fresh := register(t, a, 2)
	add := func(addr string) error { _, err := s.Add(registrations[addr]); return err }
	done := map[string]state{a: "absent", b: "absent"} // as last reported
	half := map[string]state{}                         // what the one failed change may have made of it
	failed := false
	xz := map[string][]byte{a: registrations[a].Xzibit, b: registrations[b].Xzibit}
	disabled := map[string]bool{}
	present := func(addr string) state { return state(fmt.Sprintf("%x %v", xz[addr], disabled[addr])) }
	step := func(addr string, do func() error, after func() state) {
		t.Helper()
		err := do()
		switch {
		case err == nil:
			if failed {
				t.Error("a change was made after one had failed half way")
			}
			done[addr] = after()
		case errors.Is(err, account.ErrFailed) && !failed:
			failed, half[addr] = true, after()
		}
		if stateOf(t, s, addr) != done[addr] {
			t.Errorf("%s is in memory what was never reported", addr)
		}
	}
	step(a, func() error { return add(a) }, func() state { return present(a) })
	if done[a] == "absent" && !failed {
		step(a, func() error { return add(a) }, func() state { return present(a) }) // a clean failure can be tried again
	}
	step(b, func() error { return add(b) }, func() state { return present(b) })
	step(a, func() error { return s.SetXzibit(fresh) }, func() state { xz[a] = fresh.Xzibit; return present(a) })
	step(b, func() error { return s.SetDisabled(mustAddress(b), true) }, func() state { disabled[b] = true; return present(b) })
	step(a, func() error { return s.Remove(mustAddress(a)) }, func() state { return "absent" })
	step(a, func() error { return add(a) }, func() state { xz[a] = registrations[a].Xzibit; return present(a) })
	calls = fsys.Calls() - first
	fsys.Inject(nil)

	s, err := account.Open("/accounts", fsys.Crash(r), seeded(t, 1), nil)
	if err != nil {
		t.Fatalf("after the crash: %v", err)
	}
	for addr, want := range done {
		if got := stateOf(t, s, addr); got != want && got != half[addr] {
			t.Errorf("after the crash %s is %q, reported was %q, failed %q", addr, got, want, half[addr])
		}
	}
	return calls
}
