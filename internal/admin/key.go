package admin

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// ErrRunning is what changing keys wraps while a daemon, or another command, has the
// data directory.
var ErrRunning = errors.New("the data directory is in use")

// A KeyView is a server's key as it is shown, and the form of --json. Nothing of it is secret.
type KeyView struct {
	Key         string `json:"key"` // base64
	Fingerprint string `json:"fingerprint"`
	File        string `json:"file"`
}

func keyView(key crypt.PublicKey, file string) KeyView {
	return KeyView{base64.StdEncoding.EncodeToString(key[:]), key.String(), file}
}

// KeysView is what is shown of all keys of a server.
type KeysView struct {
	Identity KeyView   `json:"identity"`
	Spool    *KeyView  `json:"spool,omitempty"` // nil before the first start
	Former   []KeyView `json:"former"`          // identities that were rotated
}

// Keys returns the keys of the server that cfg describes.
func Keys(cfg *config.Config) (v KeysView, err error) {
	show := func(path string) (KeyView, error) {
		k, err := keyfile.Load(path)
		if err != nil {
			return KeyView{}, err
		}
		defer k.Wipe()
		return keyView(k.Public(), path), nil
	}
	if v.Identity, err = show(cfg.KeyFile()); errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("%w; cmtpd serve makes the keys at its first start", err)
	}
	if err != nil {
		return v, err
	}
	own, err := show(cfg.SpoolKeyFile())
	if err == nil {
		v.Spool = &own
	} else if !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	v.Former = []KeyView{}
	former, err := keyfile.Former(cfg.KeyFile())
	for _, k := range former {
		v.Former = append(v.Former, keyView(k.Public(), keyfile.FormerPath(cfg.KeyFile(), k.Public())))
		k.Wipe()
	}
	return v, err
}

// RotateKey gives the server a new identity, and keeps the former one where the daemon finds it.
func RotateKey(cfg *config.Config) (former, now KeyView, err error) {
	var was, is crypt.PublicKey
	err = stopped(cfg, cfg.KeyFile(), func() (err error) {
		was, is, err = keyfile.Rotate(cfg.KeyFile())
		return err
	})
	return keyView(was, keyfile.FormerPath(cfg.KeyFile(), was)), keyView(is, cfg.KeyFile()), err
}

// RotateSpoolKey gives the server a new key to sign its spool with. Nothing of the former one is
// kept: what it has signed needs its public half, which is in the spool.
func RotateSpoolKey(cfg *config.Config) (now KeyView, err error) {
	var is crypt.PublicKey
	err = stopped(cfg, cfg.SpoolKeyFile(), func() (err error) {
		_, is, err = keyfile.Replace(cfg.SpoolKeyFile())
		return err
	})
	return keyView(is, cfg.SpoolKeyFile()), err
}

// stopped changes a key file that is there, with the daemon kept from starting: a running one
// would go on with the key that it has read.
func stopped(cfg *config.Config, path string, change func() error) error {
	if _, err := os.Lstat(path); err != nil {
		return fmt.Errorf("rotating a key: %w; cmtpd serve makes the keys at its first start", err)
	}
	if err := OwnData(cfg.DataDir); err != nil {
		return err
	}
	lock, err := durable.OS.Lock(cfg.LockFile())
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w: stop cmtpd (or wait for the command that is at work), rotate, and start it again", ErrRunning)
	}
	if err != nil {
		return fmt.Errorf("locking the data directory: %w", err)
	}
	return errors.Join(change(), lock.Close())
}
