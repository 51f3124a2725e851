package keyfile_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/keyfile"
)

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.key")
	key, created, err := keyfile.LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("first: created %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	again, created, err := keyfile.LoadOrCreate(path)
	if err != nil || created || again.Public() != key.Public() {
		t.Fatalf("second: created %v, %v, same key %v", created, err, err == nil && again.Public() == key.Public())
	}
}

func TestLoad_Refuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	key, _, err := keyfile.LoadOrCreate(good)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "\n")
	halves := key.Bytes()
	halves[40] ^= 1
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want error
	}{
		"readable by the group":  {string(text), 0o640, keyfile.ErrMode},
		"readable by everybody":  {string(text), 0o604, keyfile.ErrMode},
		"halves that disagree":   {head + "\n" + base64.StdEncoding.EncodeToString(halves) + "\n", 0o600, crypt.ErrKeyHalves},
		"empty":                  {"", 0o600, keyfile.ErrFormat},
		"another header":         {"x" + string(text), 0o600, keyfile.ErrFormat},
		"no base64":              {head + "\n!\n", 0o600, keyfile.ErrFormat},
		"something behind":       {string(text) + "\n", 0o600, keyfile.ErrFormat},
		"a whole disk in a file": {head + strings.Repeat("\n", 1<<16), 0o600, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, created, err := keyfile.LoadOrCreate(path)
			if err == nil || created || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("created %v, error %v; want %v", created, err, c.want)
			}
			if strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(key.Bytes())[:20]) {
				t.Errorf("the error tells the key: %v", err)
			}
			if left, err := os.ReadFile(path); err != nil || string(left) != c.text {
				t.Errorf("the file was changed")
			}
		})
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Load(link); !errors.Is(err, keyfile.ErrMode) {
		t.Errorf("a symbolic link: %v, want ErrMode", err)
	}
}
