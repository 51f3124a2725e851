// Package backup copies a server's data beside its running daemon, and puts such a
// copy in the place of data that is lost.
//
// It guarantees that a directory that has the name of a backup is a whole one,
// proven by every signature and digest in it; that a backup is proven again, and
// wholly, before any of it takes effect; and that the spool of a restored server
// signs nothing with a key, and gives no message a number, that the server which it
// replaces may have used since.
package backup

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
	"cmtpd/internal/trust"
	"cmtpd/internal/version"
)

// Errors for the person who makes or restores a backup.
var (
	ErrExists   = errors.New("there is something already")
	ErrInside   = errors.New("a backup must not lie in the data directory")
	ErrFormat   = errors.New("this is no backup that this version of cmtpd can read")
	ErrNotEmpty = errors.New("the data directory is not empty")
	ErrMismatch = errors.New("the backup is not as it was made")
)

const (
	manifestName  = "backup.json"
	format        = 1
	manifestLimit = 64 << 10 // bytes
	fileLimit     = 1 << 20  // bytes of an account, or of what is known of a domain
)

// A Manifest says what a backup holds. It is the last file of a backup to be written.
type Manifest struct {
	Format   int       `json:"format"`
	Time     time.Time `json:"time"`
	Version  string    `json:"cmtpd"`    // that made it
	Head     string    `json:"head"`     // of the chain, number:hash
	Identity string    `json:"identity"` // the server's public key, base64
	Commits  uint64    `json:"commits"`
	Messages uint64    `json:"messages"`
	Bytes    int64     `json:"spool_bytes"`
	Accounts int       `json:"accounts"`
	Trust    int       `json:"trust"` // domains whose servers' keys are remembered
}

// where is what to do where DIR cannot be looked at or made.
const where = "name one in a directory that exists and belongs to the user who runs this"

// Make makes a backup of cfg's data in the new directory dir. It locks nothing; a daemon
// goes on meanwhile. progress may be nil; want are heads that the copy must contain.
//
//	mkdir      .<base>.<random>.tmp beside dir
//	(the keys, the spool as spool.Copy copies it, the accounts, the other servers' keys: open, pwrite, fdatasync)
//	fsync      every directory
//	open, pwrite, fdatasync, rename, fsync   backup.json
//	rename     .<base>.<random>.tmp   dir
//	fsync      the directory of dir
func Make(ctx context.Context, cfg *config.Config, dir string, progress func(done, total int64), want ...spool.Head) (m *Manifest, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	switch _, err := os.Lstat(dir); {
	case err == nil:
		return nil, fmt.Errorf("making a backup in %s: %w: %w; name a directory that does not exist yet", dir, ErrExists, fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("making a backup in %s: %w; %s", dir, err, where)
	}
	if rel, err := filepath.Rel(real(cfg.DataDir), filepath.Join(real(filepath.Dir(dir)), filepath.Base(dir))); err == nil && filepath.IsLocal(rel) {
		return nil, fmt.Errorf("making a backup in %s: %w %s: what takes that away takes the backup", dir, ErrInside, cfg.DataDir)
	}
	tmp := temporary(dir)
	if err := durable.OS.Mkdir(tmp, 0o700); err != nil {
		return nil, fmt.Errorf("making a backup: %w; %s", err, where)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if m, err = fill(ctx, cfg, tmp, progress, want); err != nil {
		return nil, fmt.Errorf("making a backup: %w", err)
	}
	if err := durable.OS.Rename(tmp, dir); err != nil {
		return nil, fmt.Errorf("making a backup: %w", err)
	}
	return m, durable.OS.SyncDir(filepath.Dir(dir))
}

// real returns a path without symbolic links, as far as there is one.
func real(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// temporary names what is not yet the directory dir.
func temporary(dir string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+"."+durable.RandomName()+".tmp")
}

// fill copies the data. Accounts come after the spool, so that whoever has mail in the copy is in
// it, too.
func fill(ctx context.Context, cfg *config.Config, tmp string, progress func(done, total int64), want []spool.Head) (*Manifest, error) {
	to := *cfg
	to.DataDir = tmp
	now := time.Now()
	key, err := copyKey(cfg.KeyFile(), to.KeyFile())
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	public := key.Public()
	if err := copyOthers(cfg, &to); err != nil {
		return nil, err
	}
	report, err := copySpool(ctx, cfg, &to, public, progress, want)
	if err != nil {
		return nil, err
	}
	// They are made again from the log when they are needed.
	if err := os.RemoveAll(filepath.Join(to.SpoolDir(), "index")); err != nil {
		return nil, err
	}
	n, err := copyAccounts(cfg, &to, key)
	if err != nil {
		return nil, err
	}
	known, err := copyTrust(cfg, &to)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{to.SpoolDir(), tmp} {
		if err := durable.OS.SyncDir(d); err != nil {
			return nil, err
		}
	}
	m := &Manifest{
		Format: format, Time: now.UTC().Truncate(time.Second), Version: version.Number, Head: report.Head.String(),
		Identity: base64.StdEncoding.EncodeToString(public[:]), Commits: report.Commits, Messages: report.Messages,
		Bytes: report.Bytes, Accounts: n, Trust: known,
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	return m, durable.WriteFile(durable.OS, filepath.Join(tmp, manifestName), append(data, '\n'), 0o600)
}

func copySpool(ctx context.Context, from, to *config.Config, identity crypt.PublicKey, progress func(done, total int64), want []spool.Head) (spool.Report, error) {
	report, err := spool.Copy(ctx, durable.OS, from.SpoolDir(), to.SpoolDir(), identity, progress, want...)
	switch {
	case report.Foreign && len(report.Damage) == 0:
		err = fmt.Errorf("%w; if the server's key was rotated, start cmtpd once before the next backup", err)
	case errors.Is(err, spool.ErrUnproven):
		err = fmt.Errorf("%w; a backup has to be whole: see cmtpd spool verify and cmtpd spool repair", err)
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w; cmtpd serve makes the spool at its first start", err)
	}
	return report, err
}

// copyKey copies a key that can be read, and returns it.
func copyKey(from, to string) (*crypt.PrivateKey, error) {
	key, err := keyfile.Load(from)
	if err != nil {
		return nil, err
	}
	key.Wipe()
	data, err := durable.ReadFile(durable.OS, from, manifestLimit)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	if err := durable.WriteNew(durable.OS, to, data, 0o600); err != nil {
		return nil, err
	}
	return keyfile.Load(to)
}

// copyOthers copies the keys around the identity: those that the server had before, since mail to the server
// itself may be sealed to them; the next one, which may be in DNS already; and the public half of the
// successor. When the next one was seen in DNS is left out: a server that is restored looks anew.
func copyOthers(from, to *config.Config) error {
	if err := copyFormer(from, to); err != nil {
		return err
	}
	next, err := copyKey(keyfile.NextPath(from.KeyFile()), keyfile.NextPath(to.KeyFile()))
	if err == nil {
		next.Wipe()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := keyfile.SuccessorPath(from.KeyFile())
	if _, err = keyfile.LoadPublic(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := durable.ReadFile(durable.OS, path, manifestLimit)
	if err != nil {
		return err
	}
	return durable.WriteNew(durable.OS, keyfile.SuccessorPath(to.KeyFile()), data, 0o600)
}

// copyFormer keeps the times of the files, which tell in which order the keys were followed.
func copyFormer(from, to *config.Config) error {
	former, err := keyfile.Former(from.KeyFile())
	for _, k := range former {
		public := k.Public()
		k.Wipe()
		if err != nil {
			continue
		}
		was, is := keyfile.FormerPath(from.KeyFile(), public), keyfile.FormerPath(to.KeyFile(), public)
		var copied *crypt.PrivateKey
		if copied, err = copyKey(was, is); err == nil {
			copied.Wipe()
			err = copyTime(was, is)
		}
	}
	return err
}

func copyTime(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// copyAccounts copies every account, and reads the copies as the daemon will. An account that is
// removed meanwhile is left out.
func copyAccounts(from, to *config.Config, identity *crypt.PrivateKey) (n int, err error) {
	if err := copyFiles(from.AccountsDir(), to.AccountsDir()); err != nil {
		return 0, fmt.Errorf("copying the accounts: %w", err)
	}
	store, err := account.Open(account.Options{Dir: to.AccountsDir(), FS: durable.OS, Signer: identity, Now: time.Now})
	if err != nil {
		return 0, err
	}
	all, err := store.List()
	return len(all), err
}

// copyTrust copies what is remembered of other servers' keys, without which every domain would be a stranger
// to the restored server. A damaged file is copied as it is: it goes on holding its domain.
func copyTrust(from, to *config.Config) (n int, err error) {
	if err := copyFiles(from.TrustDir(), to.TrustDir()); err != nil {
		return 0, fmt.Errorf("copying what is known of other servers: %w", err)
	}
	all, err := trust.Read(to.TrustDir(), durable.OS, time.Now())
	return len(all), err
}

// copyFiles copies the finished files of a directory, if there is one, into a new one. Those that are replaced
// meanwhile are copied as they were or as they are, and those that go are left out.
func copyFiles(from, to string) error {
	if err := durable.MkdirAll(durable.OS, to, 0o700); err != nil {
		return err
	}
	names, err := durable.OS.ReadDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".json") || strings.HasPrefix(name, ".") {
			continue
		}
		data, err := durable.ReadFile(durable.OS, filepath.Join(from, name), fileLimit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = durable.WriteNew(durable.OS, filepath.Join(to, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return durable.OS.SyncDir(to)
}
