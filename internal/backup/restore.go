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
	"slices"
	"syscall"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

// A Restored says what Restore has put in place.
type Restored struct {
	Manifest Manifest
	Head     spool.Head      // of the chain now: what the backup ends with, and one commit
	Key      crypt.PublicKey // that signs the spool from now on
}

// Restore proves the backup in dir and makes it cfg's data, of which there must be none. Nothing is
// in the data directory before all of it is proven. want are heads kept elsewhere that the backup has
// to contain. progress may be nil.
//
// The data is put together in a temporary directory beside the data directory and renamed. Where
// that cannot be, because the directory above belongs to somebody else or to another disk, it
// is put together within, and its parts are renamed, the identity last: a daemon that is
// started too early finds the spool of another server, and does not serve.
func Restore(ctx context.Context, dir string, cfg *config.Config, progress func(done, total int64), want ...spool.Head) (r *Restored, err error) {
	fail := func(err error) (*Restored, error) { return nil, fmt.Errorf("restoring %s: %w", dir, err) }
	m, head, err := readManifest(dir)
	if err != nil {
		return fail(err)
	}
	there, err := empty(cfg.DataDir)
	if err != nil {
		return fail(err)
	}
	from := *cfg
	from.DataDir = dir
	stage := temporary(cfg.DataDir)
	within := there && !sameDisk(cfg.DataDir)
	if !within {
		err := durable.OS.Mkdir(stage, 0o700)
		if within = there && denied(err); err != nil && !within {
			return fail(fmt.Errorf("%w; make the data directory %s first, and give it to the user that cmtpd runs as", err, cfg.DataDir))
		}
	}
	if within {
		stage = filepath.Join(cfg.DataDir, ".restore."+durable.RandomName()+".tmp")
		if err := proveInPlace(ctx, &from, m, head, want); err != nil {
			return fail(err)
		}
		if err := durable.OS.Mkdir(stage, 0o700); err != nil {
			return fail(err)
		}
	}
	to := *cfg
	to.DataDir = stage
	if r, err = build(ctx, &from, &to, m, head, progress, want); err == nil {
		err = install(&to, cfg, there, within)
	}
	if err != nil {
		return fail(errors.Join(err, os.RemoveAll(stage)))
	}
	return r, nil
}

func readManifest(dir string) (*Manifest, spool.Head, error) {
	data, err := durable.ReadFile(durable.OS, filepath.Join(dir, manifestName), manifestLimit)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w; without it the backup was not finished, or not copied whole", ErrFormat, err)
	}
	if err != nil {
		return nil, spool.Head{}, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, spool.Head{}, fmt.Errorf("%w: %s: %w", ErrFormat, manifestName, err)
	}
	if m.Format != format {
		return nil, spool.Head{}, fmt.Errorf("%w: its format is %d, made by cmtpd %q", ErrFormat, m.Format, m.Version)
	}
	head, err := spool.ParseHead(m.Head)
	if err != nil {
		return nil, head, fmt.Errorf("%w: %s: %w", ErrFormat, manifestName, err)
	}
	return m, head, nil
}

// empty says whether there is a directory, and fails unless it is empty and this process' own.
func empty(dir string) (there bool, err error) {
	names, err := durable.OS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(names) > 0 {
		return true, fmt.Errorf("%s: %w; stop cmtpd and move what is there away, to keep it until the restored server has proven itself", dir, ErrNotEmpty)
	}
	return true, nil
}

// sameDisk says whether a directory and the one above it are on the same file system.
func sameDisk(dir string) bool {
	var at, above syscall.Stat_t
	return syscall.Stat(dir, &at) == nil && syscall.Stat(filepath.Dir(dir), &above) == nil && at.Dev == above.Dev
}

func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// proveInPlace proves a backup where it lies.
func proveInPlace(ctx context.Context, from *config.Config, m *Manifest, head spool.Head, want []spool.Head) error {
	key, err := keyfile.Load(from.KeyFile())
	if err != nil {
		return err
	}
	defer key.Wipe()
	report, err := spool.Verify(ctx, durable.OS, from.SpoolDir(), key.Public(), nil, append(want, head)...)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		return err
	}
	return m.fits(key.Public(), &report)
}

// fits says whether the manifest is that of what was found.
func (m *Manifest) fits(identity crypt.PublicKey, r *spool.Report) error {
	if m.Identity != base64.StdEncoding.EncodeToString(identity[:]) {
		return fmt.Errorf("%w: its identity key is not the one in %s", ErrMismatch, manifestName)
	}
	if r.Head.String() != m.Head || r.Messages != m.Messages || r.Commits != m.Commits {
		return fmt.Errorf("%w: it has %d messages in %d commits and ends with commit %s; it was made with %d in %d, and %s",
			ErrMismatch, r.Messages, r.Commits, r.Head, m.Messages, m.Commits, m.Head)
	}
	return nil
}

// build makes the data of a server that goes on from a backup, and proves it.
func build(ctx context.Context, from, to *config.Config, m *Manifest, head spool.Head, progress func(done, total int64), want []spool.Head) (*Restored, error) {
	identity, err := copyKey(from.KeyFile(), to.KeyFile())
	if err != nil {
		return nil, err
	}
	defer identity.Wipe()
	if err := copyOthers(from, to); err != nil {
		return nil, err
	}
	report, err := spool.Copy(ctx, durable.OS, from.SpoolDir(), to.SpoolDir(), identity.Public(), progress, append(want, head)...)
	if err != nil {
		return nil, err
	}
	if err := m.fits(identity.Public(), &report); err != nil {
		return nil, err
	}
	n, err := copyAccounts(from, to, identity)
	if err != nil {
		return nil, err
	}
	if n != m.Accounts {
		return nil, fmt.Errorf("%w: it has %d accounts; it was made with %d", ErrMismatch, n, m.Accounts)
	}
	if n, err = copyTrust(from, to); err != nil {
		return nil, err
	}
	if n != m.Trust {
		return nil, fmt.Errorf("%w: it knows the servers of %d domains; it was made with %d", ErrMismatch, n, m.Trust)
	}
	// The server that is replaced may have signed other commits since, with the numbers that would be
	// given next here.
	key, _, err := keyfile.LoadOrCreate(to.SpoolKeyFile())
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	r := &Restored{Manifest: *m, Key: key.Public()}
	r.Head, err = spool.Continue(to.SpoolDir(), spool.Options{FS: durable.OS, Key: key, Identity: identity, Now: time.Now})
	return r, err
}

// install gives the data its place.
//
//	fsync   the temporary directory
//	rmdir   the data directory, which is empty
//	rename  the temporary directory   the data directory
//	fsync   the one above
func install(from, to *config.Config, there, within bool) error {
	if err := durable.OS.SyncDir(from.DataDir); err != nil {
		return err
	}
	if within {
		return installWithin(from, to)
	}
	if there {
		if err := durable.OS.Remove(to.DataDir); err != nil {
			return err
		}
	}
	if err := durable.OS.Rename(from.DataDir, to.DataDir); err != nil {
		return err
	}
	return durable.OS.SyncDir(filepath.Dir(to.DataDir))
}

// installWithin is install where only the data directory itself can be written. The lock keeps a daemon
// away meanwhile. A failure takes all of it away again: there was nothing before.
//
//	rename  spool                                       into the data directory
//	rename  accounts, trust, spool.key, server.key.*    into it
//	fsync   it
//	rename  server.key                                  into it
//	fsync   it
//	rmdir   the temporary directory
func installWithin(from, to *config.Config) (err error) {
	lock, err := durable.OS.Lock(to.LockFile())
	if err != nil {
		return err
	}
	parts, err := durable.OS.ReadDir(from.DataDir)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	// The spool first, and the identity last.
	first, last := filepath.Base(to.SpoolDir()), filepath.Base(to.KeyFile())
	parts = slices.DeleteFunc(parts, func(name string) bool { return name == first || name == last })
	parts = append(append([]string{first}, parts...), last)
	defer func() {
		if err != nil {
			for _, name := range parts {
				err = errors.Join(err, os.RemoveAll(filepath.Join(to.DataDir, name)))
			}
			err = errors.Join(err, os.Remove(to.LockFile()))
		}
		err = errors.Join(err, lock.Close())
	}()
	for i, name := range parts {
		if i == len(parts)-1 {
			err = durable.OS.SyncDir(to.DataDir)
		}
		if err == nil {
			err = durable.OS.Rename(filepath.Join(from.DataDir, name), filepath.Join(to.DataDir, name))
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(durable.OS.SyncDir(to.DataDir), durable.OS.Remove(from.DataDir))
}
