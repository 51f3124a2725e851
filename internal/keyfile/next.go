package keyfile

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// publicHeader is the first line of the file of a public key. The second is its base64.
const publicHeader = "cmtp-ed25519-public-key-1"

// NextPath is where the key waits that is to follow the one at path.
func NextPath(path string) string { return path + ".next" }

// SuccessorPath is where the public half of the announced successor of the key at path lies. Its
// secret half is nowhere here.
func SuccessorPath(path string) string { return path + ".successor" }

// LoadPublic reads a public key.
func LoadPublic(path string) (crypt.PublicKey, error) {
	data, err := durable.ReadFile(durable.OS, path, limit)
	if err != nil {
		return crypt.PublicKey{}, fmt.Errorf("reading a public key: %w", err)
	}
	text, _ := strings.CutPrefix(string(data), publicHeader+"\n")
	line, rest, ended := strings.Cut(text, "\n")
	raw, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil || len(text) == len(data) || !ended || rest != "" || strings.ContainsRune(line, '\r') {
		return crypt.PublicKey{}, fmt.Errorf("reading the public key %s: %w; restore it from a backup", path, ErrFormat)
	}
	key, err := crypt.ParsePublicKey(raw)
	if err != nil {
		return key, fmt.Errorf("reading the public key %s: %w; restore it from a backup", path, err)
	}
	return key, nil
}

// Prepare puts a key at NextPath, over one that is there.
//
//	unlink                   .<base>.*.tmp               what an earlier crash has left
//	open, pwrite, fdatasync  .<base>.next.<random>.tmp
//	rename                   .<base>.next.<random>.tmp   path.next
//	fsync                    the directory
func Prepare(path string, key *crypt.PrivateKey) error {
	if err := prepare(durable.OS, path, key); err != nil {
		return fmt.Errorf("preparing the next key %s: %w", NextPath(path), err)
	}
	return nil
}

func prepare(fsys durable.FS, path string, key *crypt.PrivateKey) error {
	if err := sweep(fsys, path); err != nil {
		return err
	}
	return write(fsys, NextPath(path), key)
}

// Promote puts the key at NextPath in the place of the one at path, and keeps that one at
// FormerPath. The former key is there before the new one takes its place, and a crash at any point
// leaves one of the two whole at path: then Promote may be called again, and ends what was cut
// short. Only one process may call it at a time.
//
//	unlink                   .<base>.*.tmp                   what an earlier crash has left
//	open, pwrite, fdatasync  .<base>.<former>.<random>.tmp   the former key
//	rename                   .<base>.<former>.<random>.tmp   path.<former>
//	fsync                    the directory
//	open, pwrite, fdatasync  .<base>.<random>.tmp            the new key
//	rename                   .<base>.<random>.tmp            path
//	fsync                    the directory
//	unlink                   path.next, and path.successor where that is the same key
//	fsync                    the directory
func Promote(path string) (now crypt.PublicKey, err error) {
	old, err := Load(path)
	if err != nil {
		return now, err
	}
	defer old.Wipe()
	next, err := Load(NextPath(path))
	if err != nil {
		return now, err
	}
	defer next.Wipe()
	announced, err := LoadPublic(SuccessorPath(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return now, err
	}
	if err := promote(durable.OS, path, old, next, announced); err != nil {
		return now, fmt.Errorf("rotating the key %s: %w; it is the former or the new one now, and this may be run again", path, err)
	}
	return next.Public(), nil
}

// promote is Promote on any file system.
func promote(fsys durable.FS, path string, old, next *crypt.PrivateKey, announced crypt.PublicKey) error {
	err := sweep(fsys, path)
	if err == nil && old.Public() != next.Public() { // else all but the end was done before
		err = swap(fsys, path, old, next, true)
	}
	if err != nil {
		return err
	}
	if announced == next.Public() {
		if err := fsys.Remove(SuccessorPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Last: while it is there, whoever looks knows that the rest may have to be done.
	if err := fsys.Remove(NextPath(path)); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// MakeSuccessor makes a key in the new file out, which is meant to leave this machine, and then
// keeps its public half at SuccessorPath, over one that is there. A whole key at out is taken for
// that of an earlier call which was cut short in between; anything else there is an error.
//
//	unlink                   .<out>.*.tmp              what an earlier crash has left
//	open, pwrite, fdatasync  .<out>.<random>.tmp       the secret key
//	rename                   .<out>.<random>.tmp       out
//	fsync                    the directory of out
//	open, pwrite, fdatasync  .<base>.successor.*.tmp   the public half
//	rename                   .<base>.successor.*.tmp   path.successor
//	fsync                    the directory of path
func MakeSuccessor(path, out string) (crypt.PublicKey, error) {
	var key *crypt.PrivateKey
	_, err := os.Lstat(out)
	switch {
	case err == nil:
		key, err = Load(out)
	case errors.Is(err, fs.ErrNotExist):
		if key, err = crypt.GenerateKey(); err == nil {
			err = createSuccessor(durable.OS, out, key)
		}
	}
	if err != nil {
		return crypt.PublicKey{}, fmt.Errorf("making a successor's key in %s: %w", out, err)
	}
	defer key.Wipe()
	if err := announce(durable.OS, path, key.Public()); err != nil {
		return crypt.PublicKey{}, fmt.Errorf("keeping the public half of %s: %w; this may be run again", out, err)
	}
	return key.Public(), nil
}

func createSuccessor(fsys durable.FS, out string, key *crypt.PrivateKey) error {
	if err := sweep(fsys, out); err != nil {
		return err
	}
	return write(fsys, out, key)
}

func announce(fsys durable.FS, path string, key crypt.PublicKey) error {
	if err := sweep(fsys, path); err != nil {
		return err
	}
	return durable.WriteFile(fsys, SuccessorPath(path), []byte(publicHeader+"\n"+base64.StdEncoding.EncodeToString(key[:])+"\n"), mode)
}

// Place puts a key at path, where there is none, and ends that it was announced or prepared.
//
//	unlink                   .<base>.*.tmp          what an earlier crash has left
//	open, pwrite, fdatasync  .<base>.<random>.tmp   the key
//	rename                   .<base>.<random>.tmp   path
//	fsync                    the directory
//	unlink                   path.successor, and path.next, where they are the same key
func Place(path string, key *crypt.PrivateKey) error {
	if err := place(durable.OS, path, key); err != nil {
		return fmt.Errorf("placing the key %s: %w", path, err)
	}
	if announced, err := LoadPublic(SuccessorPath(path)); err == nil && announced == key.Public() {
		if err := durable.OS.Remove(SuccessorPath(path)); err != nil {
			return err
		}
	}
	next, err := Load(NextPath(path))
	if err != nil {
		return nil // there is none, or none that can be used
	}
	defer next.Wipe()
	if next.Public() == key.Public() {
		return durable.OS.Remove(NextPath(path))
	}
	return nil
}

func place(fsys durable.FS, path string, key *crypt.PrivateKey) error {
	if err := sweep(fsys, path); err != nil {
		return err
	}
	return write(fsys, path, key)
}
