// Package identity is the keys of a server itself: which there are, what DNS should say of them and says, and how one
// follows another or takes the place of one that is lost.
//
// It guarantees that a step that was cut short can be taken again.
package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/discovery"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

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
	Identity  KeyView      `json:"identity"`
	Spool     *KeyView     `json:"spool,omitempty"`     // nil before the first start
	Next      *KeyView     `json:"next,omitempty"`      // prepared for a rotation
	Successor *KeyView     `json:"successor,omitempty"` // announced; the file has its public half
	Former    []KeyView    `json:"former"`              // identities that were rotated
	Records   []DomainView `json:"records"`             // for DNS
}

// A State is where a server stands in the change of its keys. All of it is from files.
type State struct {
	Live      crypt.PublicKey // the one in use
	Since     time.Time       // it is in use, by its file's time
	next      crypt.PublicKey // zero: none is prepared
	successor crypt.PublicKey // that was made here and has not come yet; zero: none
	former    []crypt.PublicKey
	lost      []string // lost-<F> of the keys that were recovered from
}

// prepared reports whether a key waits to follow the one in use.
func (s *State) prepared() bool { return s.next != crypt.PublicKey{} && s.next != s.Live }

// interrupted reports whether a switch was cut short when the new key was in its place.
func (s *State) interrupted() bool { return s.next == s.Live }

// has reports whether a key is the one in use, or was.
func (s *State) has(key crypt.PublicKey) bool {
	return key == s.Live || slices.Contains(s.former, key)
}

// isLost reports whether a key was this server's before it was lost. Whoever has it now is not this server.
func (s *State) isLost(key crypt.PublicKey) bool {
	return key != s.Live && slices.Contains(s.lost, LostPath("", key))
}

// Read returns the state of the server that cfg describes. It fails where a key that is there cannot be read.
func Read(cfg *config.Config) (*State, error) {
	path, s := cfg.KeyFile(), new(State)
	info, err := os.Lstat(path)
	if err == nil {
		s.Live, err = publicHalf(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; cmtpd serve makes the keys at its first start", err)
	}
	if err != nil {
		return nil, err
	}
	s.Since = info.ModTime()
	if s.next, err = publicHalf(keyfile.NextPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if s.successor, err = keyfile.LoadPublic(keyfile.SuccessorPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	former, err := keyfile.Former(path)
	for _, k := range former {
		s.former = append(s.former, k.Public())
		k.Wipe()
	}
	if err != nil {
		return nil, err
	}
	if s.has(s.successor) { // it has come
		s.successor = crypt.PublicKey{}
	}
	s.lost, err = lostNames(cfg.DataDir)
	return s, err
}

// NotLost returns an error where there was an identity and is none, or a spool: with another identity nobody would know
// the server, and its spool would be another's; with an empty spool, of a volume that is not mounted for instance, everybody's mail would
// seem to be gone, and what came would be where nobody looks for it later.
func NotLost(cfg *config.Config) error {
	gone := func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	switch spoolKey, log := cfg.SpoolKeyFile(), spool.LogDir(cfg.SpoolDir()); {
	case gone(cfg.KeyFile()) && !gone(cfg.SpoolDir()):
		return fmt.Errorf("%s is missing, and there is a spool that belongs to it: restore it from a backup, "+
			"or see docs/operations.md, A lost key", cfg.KeyFile())
	case !gone(spoolKey) && gone(log):
		return fmt.Errorf("%s is missing, and %s is there, which has signed what was in it: mount it, or restore the data from a backup; "+
			"or, to begin an empty spool, remove %s", log, spoolKey, spoolKey)
	}
	return nil
}

// publicHalf returns the public half of the key at path.
func publicHalf(path string) (crypt.PublicKey, error) {
	k, err := keyfile.Load(path)
	if err != nil {
		return crypt.PublicKey{}, err
	}
	defer k.Wipe()
	return k.Public(), nil
}

// Keys returns the keys of the server that cfg describes, and what should be published of them; with
// dns also what is.
func Keys(ctx context.Context, cfg *config.Config, dns bool) (v KeysView, err error) {
	s, err := Read(cfg)
	if err != nil {
		return v, err
	}
	path := cfg.KeyFile()
	v.Identity = keyView(s.Live, path)
	own, err := publicHalf(cfg.SpoolKeyFile())
	if err == nil {
		v.Spool = new(keyView(own, cfg.SpoolKeyFile()))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	if s.prepared() {
		v.Next = new(keyView(s.next, keyfile.NextPath(path)))
	}
	if s.successor != (crypt.PublicKey{}) {
		v.Successor = new(keyView(s.successor, keyfile.SuccessorPath(path)))
	}
	v.Former = []KeyView{}
	for _, k := range s.former {
		v.Former = append(v.Former, keyView(k, keyfile.FormerPath(path, k)))
	}
	var sights []Sight
	if dns {
		sights = Look(ctx, cfg, discovery.New(cfg, discovery.Options{}))
	}
	v.Records = s.domains(cfg, sights)
	return v, nil
}

// RotateSpoolKey gives the server a new key to sign its spool with. Nothing of the former one is
// kept: what it has signed needs its public half, which is in the spool.
func RotateSpoolKey(cfg *config.Config) (now KeyView, err error) {
	var is crypt.PublicKey
	err = stopped(cfg, cfg.SpoolKeyFile(), func() (err error) {
		is, err = keyfile.Replace(cfg.SpoolKeyFile())
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
	lock, err := datadir.Lock(cfg)
	if errors.Is(err, datadir.ErrRunning) {
		return fmt.Errorf("%w; rotate, and start it again", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(change(), lock.Close())
}
