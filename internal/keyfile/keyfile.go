// Package keyfile keeps a server's secret keys, one file each.
//
// It guarantees that a key is on disk before it is used, that its file is for
// its owner alone, and that a file that is damaged or open to others is refused
// and never replaced.
package keyfile

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// Errors that Load wraps, each with what to do about it.
var (
	ErrMode   = errors.New("the key file is open to others")
	ErrFormat = errors.New("the file holds no key")
)

const (
	// header is the first line of a key file. The second is the base64 of the 64
	// bytes of the key: its seed and its public half, which have to agree.
	header = "cmtp-ed25519-secret-key-1"
	mode   = 0o600
	limit  = 1024 // bytes
)

// Load reads the key at path.
func Load(path string) (*crypt.PrivateKey, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading the key %s: %w: it is %v; if nobody else can have read it, run: chmod 600 %s",
			path, ErrMode, info.Mode(), path)
	}
	data, err := durable.ReadFile(durable.OS, path, limit)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	defer clear(data)
	key, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w; restore it from a backup", path, err)
	}
	return key, nil
}

func parse(data []byte) (*crypt.PrivateKey, error) {
	text, ok := strings.CutPrefix(string(data), header+"\n")
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrFormat, header)
	}
	line, rest, _ := strings.Cut(text, "\n")
	raw, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil || rest != "" || strings.ContainsRune(line, '\r') {
		return nil, fmt.Errorf("%w: its second and last line is no base64", ErrFormat)
	}
	defer clear(raw)
	return crypt.ParsePrivateKey(raw)
}

// LoadOrCreate reads the key at path, or makes a new one there when there is no
// such file; created tells which.
func LoadOrCreate(path string) (key *crypt.PrivateKey, created bool, err error) {
	key, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if key, err = crypt.GenerateKey(); err != nil {
		return nil, false, fmt.Errorf("making the key %s: %w", path, err)
	}
	if err := write(durable.OS, path, key); err != nil {
		return nil, false, fmt.Errorf("making the key %s: %w", path, err)
	}
	return key, true, nil
}

// write makes the file of a key, or replaces it.
func write(fsys durable.FS, path string, key *crypt.PrivateKey) error {
	secret := key.Bytes()
	defer clear(secret)
	data := []byte(header + "\n" + base64.StdEncoding.EncodeToString(secret) + "\n")
	defer clear(data)
	return durable.WriteFile(fsys, path, data, mode)
}
