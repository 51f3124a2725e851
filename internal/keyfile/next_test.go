package keyfile_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/keyfile"
)

// faults fails every durable call of do, then ends the process or the machine, and has look look at
// what is left. before is done without a fault.
func faults(t *testing.T, before, do func(durable.FS) error, look func(what string, fsys durable.FS, err error)) {
	t.Helper()
	names := map[durabletest.Fault]string{durabletest.Before: "before", durabletest.After: "after", durabletest.Short: "short"}
	for fault, name := range names {
		for n := 1; ; n++ {
			reached := false
			for seed := range uint64(8) {
				fsys := durabletest.New()
				if err := errors.Join(durable.MkdirAll(fsys, "/data", 0o700), before(fsys)); err != nil {
					t.Fatal(err)
				}
				first := fsys.Calls()
				fsys.Inject(func(c durabletest.Call) durabletest.Fault {
					if c.N != first+n {
						return durabletest.None
					}
					reached = true
					return fault
				})
				err := do(fsys)
				if fsys = fsys.Kill(); seed > 0 {
					fsys = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(n))))
				}
				what := name + " call " + string(rune('a'+n-1)) + ", seed " + string(rune('0'+seed))
				look(what, fsys, err)
			}
			if !reached {
				break
			}
		}
	}
}

const faultPath = "/data/server.key"

// Wherever a switch ends, a whole key is there, and where it is the new one, so is the former. A switch
// that has not ended has left the next key, and goes on.
func TestPromote_Faults(t *testing.T) {
	old, next := generate(t), generate(t)
	before := func(fsys durable.FS) error {
		return errors.Join(keyfile.Write(fsys, faultPath, old), keyfile.PrepareOn(fsys, faultPath, next), keyfile.Announce(fsys, faultPath, next.Public()))
	}
	do := func(fsys durable.FS) error { return keyfile.PromoteOn(fsys, faultPath, old, next, next.Public()) }
	faults(t, before, do, func(what string, fsys durable.FS, err error) {
		now, former := holds(t, fsys, faultPath), holds(t, fsys, keyfile.FormerPath(faultPath, old.Public()))
		waits := holds(t, fsys, keyfile.NextPath(faultPath)) == next.Public()
		switch {
		case now == next.Public() && former != old.Public():
			t.Errorf("%s: the former key is lost", what)
		case now != next.Public() && now != old.Public(), err == nil && now != next.Public():
			t.Errorf("%s: the key is %v after %v", what, now, err)
		case now == old.Public() && !waits:
			t.Errorf("%s: the next key is lost", what)
		}
		if !waits {
			return
		}
		live := old
		if now == next.Public() {
			live = next
		}
		if err := keyfile.PromoteOn(fsys, faultPath, live, next, next.Public()); err != nil {
			t.Errorf("%s: it does not go on: %v", what, err)
		}
		names, err := fsys.ReadDir("/data")
		if err != nil || len(names) != 2 || holds(t, fsys, faultPath) != next.Public() ||
			holds(t, fsys, keyfile.FormerPath(faultPath, old.Public())) != old.Public() {
			t.Errorf("%s: at the end there are %q, %v", what, names, err)
		}
	})
}

// A next key is whole or not there, and the key in use is not touched.
func TestPrepare_Faults(t *testing.T) {
	old, next := generate(t), generate(t)
	before := func(fsys durable.FS) error { return keyfile.Write(fsys, faultPath, old) }
	do := func(fsys durable.FS) error { return keyfile.PrepareOn(fsys, faultPath, next) }
	faults(t, before, do, func(what string, fsys durable.FS, err error) {
		switch k := holds(t, fsys, keyfile.NextPath(faultPath)); {
		case holds(t, fsys, faultPath) != old.Public():
			t.Errorf("%s: the key in use is gone", what)
		case k != next.Public() && (err == nil || k != crypt.PublicKey{}):
			t.Errorf("%s: the next key is %v after %v", what, k, err)
		}
	})
}

// A public half is never kept of a key that is not whole where it was to be.
func TestMakeSuccessor_Faults(t *testing.T) {
	const out = "/data/out.key"
	key := generate(t)
	do := func(fsys durable.FS) error {
		if err := keyfile.CreateOn(fsys, out, key); err != nil {
			return err
		}
		return keyfile.Announce(fsys, faultPath, key.Public())
	}
	faults(t, func(durable.FS) error { return nil }, do, func(what string, fsys durable.FS, err error) {
		_, none := durable.ReadFile(fsys, keyfile.SuccessorPath(faultPath), 1<<10)
		if whole := holds(t, fsys, out) == key.Public(); !whole && (none == nil || err == nil) {
			t.Errorf("%s: the public half is kept, and the secret one is not", what)
		}
	})
}

func TestMakeSuccessor(t *testing.T) {
	path, out := filepath.Join(t.TempDir(), "server.key"), filepath.Join(t.TempDir(), "out.key")
	key, err := keyfile.MakeSuccessor(path, out)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{out: true, keyfile.SuccessorPath(path): false} {
		text, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(text), "secret") != want {
			t.Errorf("%s: %v", file, err)
		}
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	secret, err := keyfile.Load(out)
	if err != nil || secret.Public() != key {
		t.Fatalf("the secret half: %v", err)
	}
	if err := os.Remove(keyfile.SuccessorPath(path)); err != nil { // as if it had been cut short there
		t.Fatal(err)
	}
	if again, err := keyfile.MakeSuccessor(path, out); err != nil || again != key {
		t.Errorf("again: %v, %v", again, err)
	}
	if public, err := keyfile.LoadPublic(keyfile.SuccessorPath(path)); err != nil || public != key {
		t.Errorf("the public half: %v, %v", public, err)
	}
	if err := os.WriteFile(out, []byte("somebody's letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.MakeSuccessor(path, out); !errors.Is(err, keyfile.ErrFormat) {
		t.Errorf("over another file: %v", err)
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "somebody's letter" {
		t.Errorf("the other file is %q, %v", text, err)
	}
}

func TestLoadPublic_Refuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if _, err := keyfile.LoadPublic(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	const head, key = "cmtp-ed25519-public-key-1\n", "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
	for name, text := range map[string]string{
		"empty": "", "no header": key + "\n", "no end": head + key, "more": head + key + "\n\n", "no base64": head + "!\n",
		"short": head + "A6EH\n", "no key": head + strings.Repeat("A", 43) + "=\n", "too long": head + strings.Repeat("\n", 1<<16),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := keyfile.LoadPublic(path); err == nil {
			t.Errorf("%s: %v", name, k)
		}
	}
	if err := os.WriteFile(path, []byte(head+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.LoadPublic(path); err != nil {
		t.Error(err)
	}
}

// Wherever placing a key ends, there is a whole one or none, and it may be placed again.
func TestPlace_Faults(t *testing.T) {
	key := generate(t)
	do := func(fsys durable.FS) error { return keyfile.PlaceOn(fsys, faultPath, key) }
	faults(t, func(durable.FS) error { return nil }, do, func(what string, fsys durable.FS, err error) {
		if now := holds(t, fsys, faultPath); now != key.Public() && (now != crypt.PublicKey{} || err == nil) {
			t.Errorf("%s: the key is %v after %v", what, now, err)
		}
		if err := do(fsys); err != nil || holds(t, fsys, faultPath) != key.Public() {
			t.Errorf("%s: it is not placed again: %v", what, err)
		}
	})
}
