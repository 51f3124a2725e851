// Package checkup looks over a server for its administrator: its files, its daemon, its users, and what others see of it.
//
// It guarantees that nothing is changed by looking, and that an answer that does not come costs a bounded time.
package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
)

// A Finding is something about a server that its operator should know.
type Finding struct {
	Check  string `json:"check"` // which one found it
	Note   bool   `json:"note"`  // nothing is wrong
	Text   string `json:"text"`
	Remedy string `json:"remedy"` // what to do
}

// String returns one line, whatever others have said that stands in it: it steers no terminal.
func (f Finding) String() string {
	s := f.Check + ": " + f.Text
	if f.Remedy != "" {
		s += "; " + f.Remedy
	}
	return letter.Line(strings.ReplaceAll(s, "\n", "; "))
}

func problem(text, remedy string) []Finding { return []Finding{{Text: text, Remedy: remedy}} }
func note(text string) []Finding            { return []Finding{{Note: true, Text: text}} }

// some returns a few of many names.
func some(names []string) string {
	const few = 5
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}

// A checkup looks at one server. Nothing is changed by it, and what one check has learnt is there
// for those that come after.
type checkup struct {
	path    string // of the configuration
	cfg     *config.Config
	running *control.SpoolState // what the daemon says; nil where none runs
}

// A check is one of those that a checkup consists of.
type check struct {
	name string
	look func(context.Context) []Finding
}

// Check looks at the server that the configuration at path describes, beside its daemon
// or without one, and yields what there is to say of it, each thing when it is known.
func Check(ctx context.Context, path string) iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		cfg, err := config.Load(path)
		if err != nil {
			each(configFindings(err), "config", yield)
			return
		}
		c := &checkup{path: path, cfg: cfg}
		here := []check{{"config", c.file}, {"data", c.data}, {"keys", c.keys}, {"disk", c.disk}, {"clock", c.clock},
			{"daemon", c.daemon}, {"spool", c.spool}, {"trust", c.trust}, {"users", c.users}}
		for _, k := range here {
			if !each(k.look(ctx), k.name, yield) {
				return
			}
		}
		c.abroad(ctx, yield)
	}
}

// abroad makes the checks that wait for others, at the same time.
func (c *checkup) abroad(ctx context.Context, yield func(Finding) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	checks := []check{{"ports", c.ports}, {"backend", c.backend}, {"dns", c.records}}
	found := make([]chan []Finding, len(checks))
	for i, k := range checks {
		found[i] = make(chan []Finding, 1)
		go func() { found[i] <- k.look(ctx) }()
	}
	for i, k := range checks {
		if !each(<-found[i], k.name, yield) {
			return
		}
	}
}

// each yields findings as those of one check, and reports whether more are wanted.
func each(found []Finding, name string, yield func(Finding) bool) bool {
	for _, f := range found {
		f.Check = name
		if !yield(f) {
			return false
		}
	}
	return true
}

func configFindings(err error) (found []Finding) {
	const remedy = "cmtpd does not start with it: correct it (the manual page cmtpd.toml(5) shows every key)"
	var all *config.Error
	if !errors.As(err, &all) {
		return problem(err.Error(), "name the right file with --config")
	}
	for _, p := range all.Problems {
		found = append(found, Finding{Text: p.String(), Remedy: remedy})
	}
	return found
}

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
		return problem(err.Error(), "run this as the owner of the directory")
	}
	if !info.IsDir() {
		return problem(dir+" is no directory", "name another one in data_dir")
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

func keyFinding(err error) Finding {
	if errors.Is(err, fs.ErrPermission) {
		return Finding{Text: err.Error(), Remedy: "run this as the owner of the directory"}
	}
	return Finding{Text: err.Error()}
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
		return problem(err.Error(), "run this as the owner of the directory")
	}
	if need := uint64(c.cfg.Limits.MinFreeSpace); free < need {
		return problem(fmt.Sprintf("mail is refused: %d bytes are free, and limits.min_free_space is %d", free, need),
			"make room on the file system of "+c.cfg.DataDir+"; cmtpd goes on by itself then")
	}
	return nil
}

// daemon asks the daemon over its socket.
func (c *checkup) daemon(context.Context) []Finding {
	state, err := control.Dial(c.cfg.ControlSocket()).Spool()
	switch {
	case err == nil:
		c.running = &state
		return nil
	case errors.Is(err, control.ErrNobody):
		return note("no daemon runs, or it is starting; under systemd, systemctl status cmtpd cmtpd.socket says why")
	}
	return problem(err.Error(), "run this as the owner of the directory; if that was so, look at the daemon's log")
}

// spool tells what the running daemon has met in its spool, or opens the spool.
func (c *checkup) spool(context.Context) (found []Finding) {
	var damage []spool.Damage
	if c.running != nil {
		damage = c.running.Damage
		if c.running.Stats.Failed {
			found = problem("it has stopped after a failed write, and takes no mail",
				"look at the disk and the daemon's log, and start cmtpd again")
		}
	} else if _, err := os.Stat(c.cfg.SpoolDir()); err == nil {
		s, err := spool.OpenReadOnly(c.cfg.SpoolDir(), durable.OS)
		if err != nil {
			return problem(err.Error(), "run this as the owner of the directory, and then cmtpd spool verify")
		}
		defer s.Close()
		damage, found = s.Damage(), c.identity(s)
	}
	for _, d := range damage {
		found = append(found, Finding{Text: "damage: " + d.String(),
			Remedy: "the rest is served; look at the disk, run cmtpd spool verify, and see docs/operations.md, Damage"})
	}
	return found
}

// identity looks whether the next start can take the spool over.
func (c *checkup) identity(s *spool.Spool) []Finding {
	key, err := keyfile.Load(c.cfg.KeyFile())
	if err != nil {
		return nil // said already
	}
	defer key.Wipe()
	was := s.Identity()
	if was == key.Public() || was == (crypt.PublicKey{}) {
		return nil
	}
	former, err := keyfile.LoadFormer(c.cfg.KeyFile(), was)
	if err != nil {
		return problem(fmt.Sprintf("the spool belongs to another identity key, %s, and cmtpd does not start with it", was),
			fmt.Sprintf("restore that server.key, or after a key rotate %s, from a backup", keyfile.FormerPath(c.cfg.KeyFile(), was)))
	}
	former.Wipe()
	return note("the server's key was rotated; the next start signs that into the spool")
}
