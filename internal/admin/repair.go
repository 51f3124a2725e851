package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

// RepairSpool repairs the spool, with the daemon kept from starting meanwhile. agree is
// told what was found before anything is changed, and not called where nothing is damaged.
func RepairSpool(ctx context.Context, cfg *config.Config, agree func(spool.Plan) error) (m spool.Mending, err error) {
	if _, err := os.Stat(cfg.SpoolDir()); err != nil {
		return m, fmt.Errorf("looking for the spool: %w", err)
	}
	lock, err := datadir.Lock(cfg)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	o, wipe, err := writable(cfg)
	if err != nil {
		return m, err
	}
	defer wipe()
	return spool.Repair(ctx, cfg.SpoolDir(), o, caller(), agree)
}

// writable returns what it takes to write the spool. The caller holds the lock of the data
// directory, and calls wipe at the end.
func writable(cfg *config.Config) (o spool.Options, wipe func(), err error) {
	identity, err := keyfile.Load(cfg.KeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; without the key that the spool belongs to nothing can be proven: restore it from a backup", err)
	}
	if err != nil {
		return o, nil, err
	}
	key, _, err := keyfile.LoadOrCreate(cfg.SpoolKeyFile())
	if err != nil {
		identity.Wipe()
		return o, nil, err
	}
	o = spool.Options{FS: durable.OS, Key: key, Identity: identity,
		Former: func(key crypt.PublicKey) (*crypt.PrivateKey, error) { return keyfile.LoadFormer(cfg.KeyFile(), key) }}
	return o, func() { identity.Wipe(); key.Wipe() }, nil
}

// caller names the user of this process.
func caller() string {
	if u, err := user.Current(); err == nil && len(u.Username) < 255 {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}
