package spool

import (
	"encoding/hex"
	"path/filepath"
)

// clean removes what does not belong to the spool any more, or never did: temporary and
// spare files, superseded segments, index files of segments that were rewritten, and large files
// that no message names. Where the log is damaged segments and large files stay, since
// their records may be what was lost.
//
//	unlink  tmp/<name>, spare/<name>, index/<name>, log/<sequence>.seg, large/<name>
func (s *Spool) clean(w *walker) error {
	for _, dir := range []string{"tmp", "spare"} {
		if err := s.removeAll(dir, func(string) bool { return true }); err != nil {
			return err
		}
	}
	current := make(map[string]bool)
	for _, seg := range s.chain.index.segments {
		if seg.dirty {
			if err := s.distrust(seg); err != nil {
				return err
			}
		}
		if t, ok := seg.table.(*indexFile); ok {
			current[filepath.Base(t.path)] = true
		}
	}
	if err := s.removeAll("index", func(name string) bool { return !current[name] }); err != nil {
		return err
	}
	if len(s.damage) > 0 {
		return nil
	}
	for _, seg := range w.superseded {
		if err := s.fs.Remove(seg.path); err != nil {
			return err
		}
	}
	return s.cleanLarge(w)
}

// cleanLarge removes large files without a message, and notices messages without their
// files that no walk has looked for.
func (s *Spool) cleanLarge(w *walker) error {
	there := make(map[[16]byte]bool)
	err := s.removeAll("large", func(name string) bool {
		b, err := hex.DecodeString(name)
		if err != nil || len(b) != 16 || hex.EncodeToString(b) != name {
			return true
		}
		there[[16]byte(b)] = true
		id, ok := w.large[[16]byte(b)]
		return !ok || s.chain.index.removed.has(id)
	})
	if err != nil {
		return err
	}
	for name, id := range w.large {
		if there[name] || s.chain.index.removed.has(id) {
			continue
		}
		seg, r, ok, err := s.chain.index.get(id)
		if err != nil {
			return err
		}
		if !ok {
			continue // gone, and its file with it
		}
		s.chain.index.damaged[id] = struct{}{}
		d := Damage{File: filepath.Join("large", hex.EncodeToString(name[:])), Segment: seg.sequence, Offset: r.offset,
			FirstCommit: r.commit(), LastCommit: r.commit(), Messages: []ID{id}, Reason: "the file is missing"}
		s.damage = append(s.damage, d)
		s.log.Error("spool is damaged", "damage", d)
		if err := s.distrust(seg); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes the files of a directory that unwanted names.
func (s *Spool) removeAll(dir string, unwanted func(name string) bool) error {
	names, err := s.fs.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if !unwanted(name) {
			continue
		}
		if err := s.fs.Remove(s.path(dir, name)); err != nil {
			return err
		}
		if dir == "large" {
			s.log.Info("removed a large file without a message", "file", name)
		}
	}
	return nil
}
