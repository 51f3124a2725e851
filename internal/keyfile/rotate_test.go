package keyfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// rotate puts a new key in the place of the one at path.
func rotate(path string) (former, now crypt.PublicKey, err error) {
	old, err := keyfile.Load(path)
	if err != nil {
		return former, now, err
	}
	key, err := crypt.GenerateKey()
	if err == nil {
		err = keyfile.Prepare(path, key)
	}
	if err == nil {
		now, err = keyfile.Promote(path)
	}
	return old.Public(), now, err
}

func TestPromote(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "server.key")
	if _, err := keyfile.Replace(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "cmtpd serve") {
		t.Fatalf("without a key: %v", err)
	}
	key, _, err := keyfile.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Promote(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a next key: %v", err)
	}
	rest := filepath.Join(dir, ".server.key.REST.tmp")
	if err := os.WriteFile(rest, []byte("a key of long ago"), 0o600); err != nil {
		t.Fatal(err)
	}
	had := []crypt.PublicKey{key.Public()}
	for range 3 {
		former, now, err := rotate(path)
		if err != nil || former != had[len(had)-1] {
			t.Fatalf("%v follows %v, %v", now, former, err)
		}
		had = append(had, now)
		if key, err = keyfile.Load(path); err != nil || key.Public() != now {
			t.Fatalf("the key is not %v, %v", now, err)
		}
	}
	if _, err := os.Stat(rest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a crash has left: %v", err)
	}
	for _, was := range had[:3] {
		k, err := keyfile.LoadFormer(path, was)
		if err != nil || k.Public() != was {
			t.Errorf("former key %v: %v", was, err)
		}
		if info, err := os.Stat(keyfile.FormerPath(path, was)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("former key %v: %v, %v", was, info.Mode(), err)
		}
	}
	if _, err := keyfile.LoadFormer(path, had[3]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the present key is a former one: %v", err)
	}
	if all, err := keyfile.Former(path); err != nil || len(all) != 3 {
		t.Errorf("%d former keys, %v", len(all), err)
	}
	if now, err := keyfile.Replace(path); err != nil || now == had[3] {
		t.Errorf("replaced by %v, %v", now, err)
	}
	if all, err := keyfile.Former(path); err != nil || len(all) != 3 {
		t.Errorf("after Replace: %d former keys, %v", len(all), err)
	}
}

// Former keys come in the order in which they were followed, the last one first.
func TestFormer_Order(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.key")
	if _, _, err := keyfile.LoadOrCreate(path); err != nil {
		t.Fatal(err)
	}
	var had []crypt.PublicKey
	began := time.Now().Add(-time.Hour)
	for n := range 8 {
		former, _, err := rotate(path)
		if err != nil {
			t.Fatal(err)
		}
		had = append(had, former)
		at := began.Add(time.Duration(n) * time.Second)
		if err := os.Chtimes(keyfile.FormerPath(path, former), at, at); err != nil {
			t.Fatal(err)
		}
	}
	all, err := keyfile.Former(path)
	if err != nil || len(all) != len(had) {
		t.Fatalf("%d former keys, %v", len(all), err)
	}
	for n, k := range all {
		if want := had[len(had)-1-n]; k.Public() != want {
			t.Errorf("former key %d is %v, not %v", n, k.Public(), want)
		}
	}
}

// A former key's file is held to all that a key's is, and to its name.
func TestLoadFormer_Refuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.key")
	if _, _, err := keyfile.LoadOrCreate(path); err != nil {
		t.Fatal(err)
	}
	first, second, err := rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	file := keyfile.FormerPath(path, first)
	if err := os.Rename(file, keyfile.FormerPath(path, second)); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.LoadFormer(path, second); !errors.Is(err, keyfile.ErrOther) {
		t.Errorf("under another's name: %v", err)
	}
	if _, err := keyfile.Former(path); !errors.Is(err, keyfile.ErrOther) {
		t.Errorf("under another's name: %v", err)
	}
	if err := os.Rename(keyfile.FormerPath(path, second), file); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.LoadFormer(path, first); !errors.Is(err, keyfile.ErrMode) {
		t.Errorf("open to others: %v", err)
	}
	if _, err := keyfile.Former(path); !errors.Is(err, keyfile.ErrMode) {
		t.Errorf("open to others: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := rotate(path); !errors.Is(err, keyfile.ErrMode) {
		t.Errorf("rotating a key that is open to others: %v", err)
	}
}

func generate(t *testing.T) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// holds returns the key in a file, or zero.
func holds(t *testing.T, fsys durable.FS, path string) (key crypt.PublicKey) {
	t.Helper()
	b, err := durable.ReadFile(fsys, path, 1<<10)
	if err != nil {
		return key
	}
	k, err := keyfile.Parse(b)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return key
	}
	return k.Public()
}
