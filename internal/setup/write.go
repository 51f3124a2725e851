package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/identity"
	"cmtpd/internal/keyfile"
)

// A State is what becomes of a file.
type State string

// New files are made, Kept ones stay as they are, of Replaced ones there is a copy.
const (
	New      State = "new"
	Kept     State = "kept"
	Replaced State = "replaced"
)

// A File is what init makes, or finds.
type File struct {
	Path  string `json:"path"`
	State State  `json:"state"`
	Copy  string `json:"copy,omitempty"` // of what was replaced
}

// An Owner is the user who serves the data.
type Owner struct {
	Name     string
	UID, GID int
}

// Work is what is to be written. Nothing is before Do.
type Work struct {
	Config  File           `json:"config"`
	DataDir File           `json:"data_dir"`
	Key     File           `json:"key"`
	Owner   Owner          `json:"-"`
	Text    string         `json:"-"` // of the configuration, where it is not Kept
	Means   *config.Config `json:"-"` // what the configuration says, be it new or kept
}

const (
	configMode    = 0o644 // there is no secret in it
	configDirMode = 0o755
	dataMode      = 0o700
)

// Existing returns what the configuration at path says, or nil if there is none, or one that sets nothing.
func Existing(path string) (*config.Config, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if text, err := os.ReadFile(path); err == nil && setsNothing(text) {
		return nil, nil
	}
	return config.Load(path)
}

// setsNothing reports whether a configuration has nothing but comments, as a package brings it.
func setsNothing(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// Prepare finds out what there is to do at path for a configuration, of which text is nothing
// where the one that is there is to stay. It changes nothing.
func Prepare(path, text string, means *config.Config, owner Owner, now time.Time) (*Work, error) {
	w := &Work{Config: File{path, New, ""}, DataDir: File{means.DataDir, New, ""}, Key: File{means.KeyFile(), New, ""}, Owner: owner, Text: text, Means: means}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && text != "" && setsNothing(old):
	case err == nil && (text == "" || string(old) == text):
		w.Config.State = Kept
	case err == nil:
		w.Config.State, w.Config.Copy = Replaced, path+".before-"+now.UTC().Format("20060102T150405Z")
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the configuration that is there: %w", err)
	}
	if err := w.prepareData(); err != nil {
		return nil, err
	}
	return w, nil
}

// prepareData looks at the data directory and the key. What belongs to somebody else is refused
// here, before anything is written.
func (w *Work) prepareData() error {
	info, err := os.Stat(w.DataDir.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the data directory: %w", err)
	}
	entries, err := os.ReadDir(w.DataDir.Path)
	if err != nil {
		return fmt.Errorf("looking at the data directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if foreign := ok && int(st.Uid) != w.Owner.UID; foreign && (len(entries) > 0 || os.Geteuid() != 0) {
		return fmt.Errorf("%w: %s is of uid %d, and %s (uid %d) is to serve it: name the right one with --user or --data-dir, or give it away with: chown -R %s: %s",
			datadir.ErrOwner, w.DataDir.Path, st.Uid, w.Owner.Name, w.Owner.UID, w.Owner.Name, w.DataDir.Path)
	}
	if len(entries) > 0 {
		w.DataDir.State = Kept
	}
	if _, err := os.Lstat(w.Key.Path); err != nil {
		return identity.NotLost(w.Means)
	}
	w.Key.State = Kept
	key, err := keyfile.Load(w.Key.Path)
	if err != nil {
		return err
	}
	key.Wipe()
	return nil
}

// Do writes what is not there yet. After a crash at any point it can be done again: what is whole is kept,
// and as long as there is no configuration nothing serves.
//
//	mkdir   data_dir, for its owner; fsync its parent
//	write   server.key, as the owner, whole or not at all
//	mkdir   the configuration's directory
//	link    the former configuration to its copy; fsync its directory
//	write   the configuration, whole or not at all
func (w *Work) Do() error {
	if err := w.makeData(); err != nil {
		return err
	}
	err := w.Owner.act(func() error {
		if err := datadir.Own(w.DataDir.Path); err != nil {
			return err
		}
		key, _, err := keyfile.LoadOrCreate(w.Key.Path)
		if err == nil {
			key.Wipe()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("as %s: %w", w.Owner.Name, err)
	}
	if w.Config.State != Kept {
		if err := withUmask(0o022, func() error { return w.writeConfig(durable.OS) }); err != nil {
			return fmt.Errorf("writing the configuration: %w%s", err, asRoot(err))
		}
	}
	return w.Owner.act(func() error {
		if _, err := config.Load(w.Config.Path); err != nil {
			return fmt.Errorf("%s cannot use it: %w", w.Owner.Name, err)
		}
		return nil
	})
}

// asRoot is the advice for who has no right to write somewhere.
func asRoot(err error) string {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return "; run this as root, or name places of your own with --config and --data-dir"
	}
	return ""
}

// makeData makes the data directory. One that a package, or a run that was cut short, has left
// empty is given to its owner.
func (w *Work) makeData() error {
	if w.DataDir.State == Kept {
		return nil
	}
	dir := filepath.Clean(w.DataDir.Path)
	err := durable.MkdirAll(durable.OS, filepath.Dir(dir), configDirMode)
	if err == nil {
		err = durable.MkdirAll(durable.OS, dir, dataMode)
	}
	if err == nil {
		err = w.giveDir(dir)
	}
	if err != nil {
		return fmt.Errorf("making the data directory: %w%s", err, asRoot(err))
	}
	return nil
}

// giveDir gives the data directory to its owner, who has it already or finds it empty. It looks at the directory
// itself, not at its name again: somebody who may change what is above it could have that lead to a directory of the
// system's meanwhile.
func (w *Work) giveDir(dir string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("%w; a symbolic link is none: name the directory itself with --data-dir", err)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != w.Owner.UID {
		if names, err := d.Readdirnames(1); err != io.EOF || int(st.Uid) != os.Geteuid() {
			return errors.Join(fmt.Errorf("%w: %s has come to be of uid %d, or not to be empty: %q", datadir.ErrOwner, dir, st.Uid, names), err)
		}
		if err := d.Chown(w.Owner.UID, w.Owner.GID); err != nil {
			return err
		}
	}
	if err := d.Chmod(dataMode); err != nil {
		return err
	}
	return durable.OS.SyncDir(dir)
}

// writeConfig leaves, after a crash at any point, the former configuration or the new one under its name, and the former
// one in any case.
func (w *Work) writeConfig(fsys durable.FS) error {
	if err := durable.MkdirAll(fsys, filepath.Dir(w.Config.Path), configDirMode); err != nil {
		return err
	}
	if w.Config.State == Replaced {
		err := fsys.Link(w.Config.Path, w.Config.Copy)
		if err == nil {
			err = fsys.SyncDir(filepath.Dir(w.Config.Copy))
		}
		if err != nil {
			return fmt.Errorf("keeping a copy: %w", err)
		}
	}
	return durable.WriteFile(fsys, w.Config.Path, []byte(w.Text), configMode)
}
