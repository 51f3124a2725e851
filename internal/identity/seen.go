package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

const seenLimit = 1 << 20 // bytes

// A seen is since when DNS was seen to name the next key, in the file server.key.seen: what only the past
// can tell. Losing it costs time alone, so a file that cannot be read is none.
type seen struct {
	Key     trust.Public         `json:"key"`
	Domains map[string]time.Time `json:"domains"`
}

func seenPath(cfg *config.Config) string { return cfg.KeyFile() + ".seen" }

// readSeen returns what was seen of a key. No time is in the future, where a clock may have been.
func readSeen(cfg *config.Config, key crypt.PublicKey, now time.Time) *seen {
	none := &seen{trust.Public{PublicKey: key}, make(map[string]time.Time)}
	data, err := durable.ReadFile(durable.OS, seenPath(cfg), seenLimit)
	if err != nil {
		return none
	}
	var s seen
	if json.Unmarshal(data, &s) != nil || s.Key != none.Key || s.Domains == nil {
		return none
	}
	for d, at := range s.Domains {
		if at.After(now) {
			s.Domains[d] = now
		}
	}
	return &s
}

// take takes what DNS says now. An answer without the key ends what was seen; no answer is none.
func (s *seen) take(sights []Sight, now time.Time) {
	for i := range sights {
		g := &sights[i]
		_, known := s.Domains[g.Domain.String()]
		switch {
		case g.Err != nil:
		case !g.names(s.Key.PublicKey):
			delete(s.Domains, g.Domain.String())
		case !known:
			s.Domains[g.Domain.String()] = now.UTC().Truncate(time.Second)
		}
	}
}

// write keeps it.
//
//	open, pwrite, fdatasync  .server.key.seen.<random>.tmp
//	rename                   .server.key.seen.<random>.tmp   server.key.seen
//	fsync                    the data directory
func (s *seen) write(cfg *config.Config) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = durable.WriteFile(durable.OS, seenPath(cfg), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keeping when the next key was seen in DNS: %w", err)
	}
	return nil
}

// dropSeen removes the file once the key is in use. It means nothing then, so it need not be gone for good.
func dropSeen(cfg *config.Config) error {
	if err := durable.OS.Remove(seenPath(cfg)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", seenPath(cfg), err)
	}
	return nil
}
