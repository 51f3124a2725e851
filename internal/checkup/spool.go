package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

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
	c.silent = true
	return problem(err.Error(), c.asOwner(err, "look at the daemon's log, and restart it if it does not answer the next time"))
}

// spool tells what the running daemon has met in its spool, or opens the spool.
func (c *checkup) spool(context.Context) (found []Finding) {
	var damage []spool.Damage
	segments, err := c.segments()
	switch {
	case c.running != nil:
		damage = c.running.Damage
		if c.running.Stats.Failed {
			found = problem("it has stopped after a failed write, and takes no mail",
				"look at the disk and the daemon's log, and start cmtpd again")
		}
	case err == nil && len(segments) == 0:
		return c.noSpool()
	default:
		s, err := spool.OpenReadOnly(c.cfg.SpoolDir(), durable.OS)
		if err != nil {
			return problem(err.Error(), c.asOwner(err, "look at the disk, and run cmtpd spool verify"))
		}
		defer s.Close()
		damage, found = s.Damage(), c.identity(s)
	}
	const remedy = "the rest is served; look at the disk, run cmtpd spool verify, and see docs/operations.md, Damage"
	for _, d := range damage[:min(len(damage), few)] {
		found = append(found, Finding{Text: "damage: " + d.String(), Remedy: remedy})
	}
	if more := len(damage) - few; more > 0 {
		found = append(found, Finding{Text: fmt.Sprintf("damage in %d more places", more), Remedy: remedy})
	}
	return found
}

// segments returns the files of the log; none where there is no log.
func (c *checkup) segments() (paths []string, err error) {
	dir := spool.LogDir(c.cfg.SpoolDir())
	names, err := durable.OS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, name := range names {
		if filepath.Ext(name) == ".seg" {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, err
}

// noSpool tells a spool that is gone from one that never was: the first start makes the key that signs it.
func (c *checkup) noSpool() []Finding {
	if _, err := os.Lstat(c.cfg.SpoolKeyFile()); err != nil {
		return nil
	}
	return problem(fmt.Sprintf("%s has no log, and %s is there, which has signed one: what was stored is gone, or not mounted", c.cfg.SpoolDir(), c.cfg.SpoolKeyFile()),
		"mount it, or restore the data from a backup: without it cmtpd does not start; to begin an empty one, remove "+c.cfg.SpoolKeyFile())
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
