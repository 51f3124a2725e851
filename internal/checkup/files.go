package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// file looks at who may change the configuration: whoever can decides where the mail goes.
func (c *checkup) file(context.Context) []Finding {
	info, err := os.Stat(c.path)
	if err != nil {
		return problem(err.Error(), "")
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return problem(fmt.Sprintf("%s may be changed by others than its owner (%v)", c.path, mode), "run: chmod go-w "+c.path)
	}
	return nil
}

// data looks at who may get at the data directory.
func (c *checkup) data(context.Context) (found []Finding) {
	dir := c.cfg.DataDir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return note(dir + " is not there yet: cmtpd serve makes it at its first start")
	}
	if err != nil {
		c.barred = errors.Is(err, fs.ErrPermission)
		return problem(err.Error(), asOwner(err, "look at the disk"))
	}
	if !info.IsDir() {
		return problem(dir+" is no directory", "name another one in data_dir")
	}
	if _, err := os.Lstat(c.cfg.LockFile()); errors.Is(err, fs.ErrPermission) {
		c.barred = true
		remedy := "run: chmod 700 " + dir
		if err := datadir.Own(dir); err != nil {
			remedy = err.Error()
		}
		return problem("nothing in "+dir+" was looked at, and no daemon asked", remedy)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		found = problem(fmt.Sprintf("%s is open to others (%v)", dir, mode), "run: chmod 700 "+dir)
	}
	owner, ok := ownerOf(info)
	for _, path := range []string{c.cfg.KeyFile(), keyfile.NextPath(c.cfg.KeyFile()), c.cfg.SpoolKeyFile(), c.cfg.LockFile(),
		c.cfg.SpoolDir(), c.cfg.AccountsDir(), c.cfg.InvitationsDir(), c.cfg.TrustDir()} {
		info, err := os.Lstat(path)
		if err != nil {
			continue // what must be there is for others to say
		}
		if its, _ := ownerOf(info); ok && its != owner {
			to := strconv.FormatUint(uint64(owner), 10)
			if name := datadir.NameOf(owner); name != "" {
				to = name + ":" // and the user's group
			}
			found = append(found, Finding{Text: fmt.Sprintf("%s belongs to user %d, and the directory to %d: the daemon cannot use it", path, its, owner),
				Remedy: fmt.Sprintf("run: chown -R %s %s", to, path)})
		}
	}
	return found
}

func ownerOf(info fs.FileInfo) (uid uint32, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// keys reads every key. What the errors say includes what to do.
func (c *checkup) keys(context.Context) (found []Finding) {
	for _, path := range []string{c.cfg.KeyFile(), c.cfg.SpoolKeyFile()} {
		err := readable(path)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			found = append(found, keyFinding(err))
			continue
		}
		if _, err := os.Stat(c.cfg.SpoolDir()); err == nil && path == c.cfg.KeyFile() {
			found = append(found, Finding{Text: path + " is missing, and there is a spool that belongs to it",
				Remedy: "restore it from a backup, or where there is none see docs/operations.md, A lost key"})
		} else {
			found = append(found, note(path+" is not there: the next start makes it")...)
		}
	}
	former, err := keyfile.Former(c.cfg.KeyFile())
	for _, k := range former {
		k.Wipe()
	}
	next := readable(keyfile.NextPath(c.cfg.KeyFile()))
	_, successor := keyfile.LoadPublic(keyfile.SuccessorPath(c.cfg.KeyFile()))
	for _, err := range []error{err, next, successor} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, keyFinding(err))
		}
	}
	return found
}

// readable returns what keeps the key at path from being read.
func readable(path string) error {
	key, err := keyfile.Load(path)
	if err == nil {
		key.Wipe()
	}
	return err
}

func keyFinding(err error) Finding { return Finding{Text: err.Error(), Remedy: asOwner(err, "")} }

// disk compares the free space with what the daemon asks for.
func (c *checkup) disk(context.Context) []Finding {
	free, err := durable.FreeSpace(c.cfg.SpoolDir())
	if errors.Is(err, fs.ErrNotExist) {
		free, err = durable.FreeSpace(c.cfg.DataDir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return problem(err.Error(), asOwner(err, "look at the disk"))
	}
	if need := uint64(c.cfg.Limits.MinFreeSpace); free < need {
		return problem(fmt.Sprintf("mail is refused: %d bytes are free, and limits.min_free_space is %d", free, need),
			"make room on the file system of "+c.cfg.DataDir+"; cmtpd goes on by itself then")
	}
	return nil
}
