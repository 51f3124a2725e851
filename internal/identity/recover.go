package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

// ErrKeyThere: a key that is said to be lost can be read.
var ErrKeyThere = errors.New("the server's key is there, and can be read")

// LostPath is where what belongs to a lost identity key is kept: a data directory of its own, beside what goes on.
func LostPath(dataDir string, key crypt.PublicKey) string {
	return filepath.Join(dataDir, lostPrefix+strings.ReplaceAll(key.String(), " ", ""))
}

const lostPrefix = "lost-"

// lostNames returns what LostPath has made in a data directory.
func lostNames(dataDir string) (names []string, err error) {
	all, err := durable.OS.ReadDir(dataDir)
	if err != nil {
		return nil, fmt.Errorf("looking for lost keys: %w", err)
	}
	for _, name := range all {
		if strings.HasPrefix(name, lostPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Recover puts the key in the file from in the place of a server.key that is lost, and of which no backup is left.
// Nothing signs that it follows, so a spool of the lost key's goes aside and a new one begins. The daemon must not run.
//
//	rename                   server.key   lost-<F>/server.key   where it cannot be read; F is the fingerprint of the spool's identity
//	unlink                   spool.key                          it must not sign a second history
//	rename                   spool        lost-<F>/spool
//	fsync                    lost-<F>, data_dir
//	open, pwrite, fdatasync  .server.key.<random>.tmp           the new key
//	rename                   .server.key.<random>.tmp   server.key
//	fsync                    data_dir
//	unlink                   server.key.successor, and server.key.next, where they are the same key
//
// It may be cut short anywhere, and run again.
func (r *Rotation) Recover(ctx context.Context, from string) (v StepView, err error) {
	if err := datadir.Own(r.cfg.DataDir); err != nil {
		return v, err
	}
	for _, path := range []string{r.cfg.KeyFile() + ".lock", r.cfg.LockFile()} {
		lock, err := durable.OS.Lock(path)
		if errors.Is(err, durable.ErrLocked) {
			return v, fmt.Errorf("%w: %s", datadir.ErrRunning, datadir.StopFirst)
		}
		if err != nil {
			return v, fmt.Errorf("locking the data directory: %w", err)
		}
		defer lock.Close()
	}
	key, err := keyfile.Load(from)
	if err != nil {
		return v, err
	}
	defer key.Wipe()
	lost, err := r.lost(key.Public())
	if err == nil {
		err = r.mayRecover(key.Public(), lost)
	}
	if err == nil {
		err = lost.replace(r, key)
	}
	if err != nil {
		return v, err
	}
	s, err := Read(r.cfg)
	if err != nil {
		return v, err
	}
	v = r.view(s, r.look(ctx))
	v.Text = "the server has this key now"
	if lost.foreign {
		v.Text += "; its spool begins anew, and the former one is in " + lost.dir
	}
	v.Due = "start cmtpd, publish these records, back up " + r.cfg.DataDir + ", and tell your users the new fingerprint: nobody signs that it has followed"
	return v, nil
}

// A loss is what there is without the key.
type loss struct {
	present bool            // server.key is there
	live    crypt.PublicKey // if it can be read
	owner   crypt.PublicKey // of the spool; zero for none
	foreign bool            // no key that is there can take the spool over
	dir     string          // for what goes aside
}

func (r *Rotation) lost(key crypt.PublicKey) (l loss, err error) {
	path := r.cfg.KeyFile()
	_, err = os.Lstat(path)
	if l.present = err == nil; l.present {
		l.live, err = publicHalf(path)
	}
	if errors.Is(err, keyfile.ErrMode) || errors.Is(err, fs.ErrPermission) {
		return l, err // it is not lost
	}
	if _, err := os.Lstat(r.cfg.SpoolDir()); err == nil {
		s, err := spool.OpenReadOnly(r.cfg.SpoolDir(), durable.OS)
		if err != nil {
			return l, fmt.Errorf("whose spool this is has to be known: %w", err)
		}
		l.owner = s.Identity()
		if err := s.Close(); err != nil {
			return l, err
		}
	}
	former, err := keyfile.Former(path)
	l.foreign = l.owner != crypt.PublicKey{} && l.owner != key
	for _, k := range former {
		if k.Public() == key {
			err = errors.Join(err, fmt.Errorf("%w: this is a key that the server had before; nobody can follow that one", ErrStep))
		}
		l.foreign = l.foreign && l.owner != k.Public()
		k.Wipe()
	}
	l.dir = LostPath(r.cfg.DataDir, l.owner)
	return l, err
}

// mayRecover refuses where a rotation is the better way, and a key that others hold mail for.
func (r *Rotation) mayRecover(key crypt.PublicKey, l loss) error {
	none := crypt.PublicKey{}
	switch {
	case l.live == key:
		return fmt.Errorf("%w, and it is this one", ErrKeyThere)
	case l.live != none && (!l.foreign || l.live == l.owner):
		return fmt.Errorf("%w: let it sign that the other one follows: cmtpd key rotate --now --from FILE", ErrKeyThere)
	case l.live != none && !r.Force:
		return fmt.Errorf("%w: it is %s, and the spool belongs to %s. If a start after the loss has made it, run this with --force; it goes aside", ErrKeyThere, l.live, l.owner)
	}
	announced, err := keyfile.LoadPublic(keyfile.SuccessorPath(r.cfg.KeyFile()))
	if err == nil && announced != key && !r.Force {
		return fmt.Errorf("%w: it is %s, and this is %s. With --force this one is taken all the same, and %s", ErrSuccessor, announced, key, consequence)
	}
	return nil
}

// replace is described at Recover.
func (l *loss) replace(r *Rotation, key *crypt.PrivateKey) error {
	if l.present || l.foreign {
		if err := durable.MkdirAll(durable.OS, l.dir, 0o700); err != nil {
			return err
		}
	}
	if l.present {
		if err := aside(r.cfg.KeyFile(), l.dir); err != nil {
			return err
		}
	}
	if l.foreign {
		if err := durable.OS.Remove(r.cfg.SpoolKeyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := aside(r.cfg.SpoolDir(), l.dir); err != nil {
			return err
		}
	}
	return keyfile.Place(r.cfg.KeyFile(), key)
}

// aside moves something into a directory that is beside it.
func aside(path, dir string) error {
	to := filepath.Join(dir, filepath.Base(path))
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s is there already; move it away", to)
	}
	if err := durable.OS.Rename(path, to); err != nil {
		return err
	}
	return errors.Join(durable.OS.SyncDir(dir), durable.OS.SyncDir(filepath.Dir(path)))
}
