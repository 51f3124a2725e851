package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
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
	return c.unreadable()
}

// unreadable finds out whether the daemon's user can read the configuration, which root, who has written it, always can.
func (c *checkup) unreadable() []Finding {
	data, err := os.Stat(c.cfg.DataDir)
	if err != nil {
		return nil // for others to say
	}
	owner, ok := ownerOf(data)
	if !ok {
		return nil
	}
	for _, of := range []struct {
		path, run string
		bit       fs.FileMode
	}{{filepath.Dir(c.path), "chmod a+x ", 1}, {c.path, "chmod a+r ", 4}} {
		info, err := os.Stat(of.path)
		if err != nil || may(owner, info, of.bit) {
			continue
		}
		return problem(fmt.Sprintf("%s keeps user %d, to whom %s belongs, from reading the configuration (%v): cmtpd does not start as that user",
			of.path, owner, c.cfg.DataDir, info.Mode().Perm()), "run: "+of.run+of.path+"; there is no secret in the file")
	}
	return nil
}

// may reports whether a file's mode lets a user do what the bit stands for: 4 to read, 1 to enter.
func may(uid uint32, info fs.FileInfo, bit fs.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !ok || uid == 0:
		return true
	case st.Uid == uid:
		return mode&(bit<<6) != 0
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		if groups, err := u.GroupIds(); err == nil && slices.Contains(groups, strconv.FormatUint(uint64(st.Gid), 10)) {
			return mode&(bit<<3) != 0
		}
	}
	return mode&bit != 0
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
		return problem(err.Error(), c.asOwner(err, "look at the disk"))
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
	besides, err := filepath.Glob(c.cfg.KeyFile() + ".*") // former keys, the next one
	if err != nil {
		return append(found, problem(err.Error(), "name another one in data_dir")...) // a [ in the path
	}
	for _, path := range append([]string{c.cfg.KeyFile(), c.cfg.SpoolKeyFile(), c.cfg.LockFile(),
		c.cfg.SpoolDir(), c.cfg.AccountsDir(), c.cfg.InvitationsDir(), c.cfg.GuessesDir(), c.cfg.TrustDir()}, besides...) {
		if first, its, n := foreign(path, owner); ok && n > 0 {
			to := strconv.FormatUint(uint64(owner), 10)
			if name := datadir.NameOf(owner); name != "" {
				to = name + ":" // and the user's group
			}
			text := fmt.Sprintf("%s belongs to user %d, and the directory to %d: the daemon cannot use it", first, its, owner)
			if n > 1 {
				text += fmt.Sprintf("; so it is with %d more in %s", n-1, path)
			}
			found, c.foreign = append(found, Finding{Text: text, Remedy: fmt.Sprintf("run: chown -R %s %s", to, path)}), true
		}
	}
	return found
}

// foreign counts what of path, and below it, belongs to another user than owner, and returns the first of them and that
// user. What is below a foreign directory belongs to it.
func foreign(path string, owner uint32) (first string, its uint32, n int) {
	filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be looked at is for others to say
		}
		info, err := d.Info()
		if err != nil {
			return nil // a running daemon has removed it
		}
		uid, ok := ownerOf(info)
		if !ok || uid == owner {
			return nil
		}
		if n++; n == 1 {
			first, its = path, uid
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return first, its, n
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
			found = append(found, c.keyFinding(err))
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
			found = append(found, c.keyFinding(err))
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

func (c *checkup) keyFinding(err error) Finding {
	return Finding{Text: err.Error(), Remedy: c.asOwner(err, "")}
}

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
		return problem(err.Error(), c.asOwner(err, "look at the disk"))
	}
	if need := uint64(c.cfg.Limits.MinFreeSpace); free < need {
		return problem(fmt.Sprintf("mail is refused: %d bytes are free, and limits.min_free_space is %d", free, need),
			"make room on the file system of "+c.cfg.DataDir+"; cmtpd goes on by itself then")
	}
	return nil
}
