package keyfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// ErrOther is what LoadFormer wraps where a file holds another key than its name says.
var ErrOther = errors.New("the file holds another key than its name says")

// digits returns a key's fingerprint as it stands in a file's name.
func digits(key crypt.PublicKey) string { return strings.ReplaceAll(key.String(), " ", "") }

// FormerPath is where Promote keeps a key that was at path: beside it, under its fingerprint.
func FormerPath(path string, key crypt.PublicKey) string { return path + "." + digits(key) }

// LoadFormer reads a key that was at path before it was rotated.
func LoadFormer(path string, key crypt.PublicKey) (*crypt.PrivateKey, error) {
	k, err := Load(FormerPath(path, key))
	if err == nil && k.Public() != key {
		return nil, fmt.Errorf("reading the key %s: %w; restore it from a backup", FormerPath(path, key), ErrOther)
	}
	return k, err
}

// Former returns the keys that were at path before, the latest first: by the times of their files, which
// are those of the switches. It fails where one of the files cannot be read as such.
func Former(path string) ([]*crypt.PrivateKey, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("looking for former keys: %w", err)
	}
	times := make(map[*crypt.PrivateKey]time.Time)
	for _, e := range entries {
		print, ok := strings.CutPrefix(e.Name(), base+".")
		if !ok || len(print) != 40 || strings.Trim(print, "0123456789abcdef") != "" {
			continue
		}
		k, err := Load(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if digits(k.Public()) != print {
			return nil, fmt.Errorf("reading the key %s: %w; restore it from a backup", filepath.Join(dir, e.Name()), ErrOther)
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("looking for former keys: %w", err)
		}
		times[k] = info.ModTime()
	}
	latest := func(a, b *crypt.PrivateKey) int {
		return cmp.Or(times[b].Compare(times[a]), cmp.Compare(digits(a.Public()), digits(b.Public())))
	}
	return slices.SortedFunc(maps.Keys(times), latest), nil
}

// Replace puts a new key in the place of the one at path, of which nothing is kept.
//
//	unlink                   .<base>.*.tmp          what an earlier crash has left
//	open, pwrite, fdatasync  .<base>.<random>.tmp   the new key
//	rename                   .<base>.<random>.tmp   path
//	fsync                    the directory
func Replace(path string) (now crypt.PublicKey, err error) {
	old, err := Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return now, fmt.Errorf("there is no key to replace: %w; cmtpd serve makes one at its first start", err)
	}
	if err != nil {
		return now, err
	}
	defer old.Wipe()
	key, err := crypt.GenerateKey()
	if err != nil {
		return now, fmt.Errorf("making the key %s: %w", path, err)
	}
	defer key.Wipe()
	if err := swap(durable.OS, path, old, key, false); err != nil {
		return now, fmt.Errorf("replacing the key %s: %w; it is the former or the new one now, and this may be called again", path, err)
	}
	return key.Public(), nil
}

// swap puts a key in the place of another, which is kept or not.
func swap(fsys durable.FS, path string, old, key *crypt.PrivateKey, keep bool) error {
	if err := sweep(fsys, path); err != nil {
		return err
	}
	if keep {
		if err := write(fsys, FormerPath(path, old.Public()), old); err != nil {
			return err
		}
	}
	return write(fsys, path, key)
}

// sweep removes what durable.WriteFile has left where it was cut short: it holds keys.
func sweep(fsys durable.FS, path string) error {
	dir, base := filepath.Split(path)
	names, err := fsys.ReadDir(filepath.Clean(dir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "."+base+".") && strings.HasSuffix(name, ".tmp") {
			if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
