package shorebird

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// Trust is how far a server's key can be trusted.
type Trust string

// How a key came to be trusted.
const (
	FirstContact Trust = "first contact" // nobody vouches for it yet
	Remembered   Trust = "remembered"    // the same as ever
)

// knownServers are the servers' keys that were seen before, by domain. The file is
// shared by all that run at once: it is read and written under a lock.
type knownServers struct {
	dir string
	now func() time.Time
}

// A knownServer is what is remembered of a domain.
type knownServer struct {
	Key       string    `json:"key"` // base64
	FirstSeen time.Time `json:"first_seen"`
}

const maxServersFile = 16 << 20 // bytes

func (k *knownServers) path() string { return filepath.Join(k.dir, "servers.json") }

func (k *knownServers) load() (map[string]knownServer, error) {
	known := map[string]knownServer{}
	b, err := durable.ReadFile(durable.OS, k.path(), maxServersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil {
		return nil, hint(fmt.Errorf("reading the remembered servers in %s: %w", k.path(), err),
			"Restore the file from a backup. Without it every server is a first contact again.")
	}
	return known, nil
}

// judge compares a server's key with the one that is remembered for the domain.
func (k *knownServers) judge(d address.Domain, key crypt.PublicKey) (Trust, error) {
	known, err := k.load()
	if err != nil {
		return "", err
	}
	return compare(known, d, key)
}

func compare(known map[string]knownServer, d address.Domain, key crypt.PublicKey) (Trust, error) {
	was, ok := known[d.String()]
	if !ok {
		return FirstContact, nil
	}
	if was.Key == base64Key(key) {
		return Remembered, nil
	}
	return "", hint(fmt.Errorf("%s: %w since %s\n  remembered  %s\n  now         %s",
		d, errKeyChanged, was.FirstSeen.Format(time.DateOnly), fingerprint(was.Key), key),
		fmt.Sprintf("Either the server was set up anew, or somebody is between you and it. Nothing was sent. Ask its operator, by other means, for the fingerprint. "+
			"If the new one is right: shorebird keys --forget %s, and then again.", d))
}

// fingerprint returns that of a key in base64.
func fingerprint(key string) string {
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(b) != crypt.PublicKeySize {
		return "(not readable)"
	}
	return crypt.PublicKey(b).String()
}

// remember keeps the key of a domain's server, unless another one is there by now.
func (k *knownServers) remember(ctx context.Context, d address.Domain, key crypt.PublicKey) error {
	return k.change(ctx, func(known map[string]knownServer) error {
		trust, err := compare(known, d, key)
		if trust == FirstContact {
			known[d.String()] = knownServer{base64Key(key), k.now().UTC().Truncate(time.Second)}
		}
		return err
	})
}

// forget makes the next contact with a domain's server a first one.
func (k *knownServers) forget(ctx context.Context, d address.Domain) (knownServer, error) {
	var was knownServer
	err := k.change(ctx, func(known map[string]knownServer) error {
		var ok bool
		if was, ok = known[d.String()]; !ok {
			return fmt.Errorf("forgetting the server of %s: %w", d, errUnknown)
		}
		delete(known, d.String())
		return nil
	})
	return was, err
}

func (k *knownServers) change(ctx context.Context, do func(map[string]knownServer) error) error {
	lock, err := k.lock(ctx)
	if err != nil {
		return fmt.Errorf("locking the remembered servers: %w", err)
	}
	defer lock.Close()
	known, err := k.load()
	if err != nil {
		return err
	}
	if err := do(known); err != nil {
		return err
	}
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return fmt.Errorf("remembering servers: %w", err)
	}
	if err := durable.WriteFile(durable.OS, k.path(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("remembering servers: %w", err)
	}
	return nil
}

// lock waits for its turn; the others hold it for one flush each.
func (k *knownServers) lock(ctx context.Context) (io.Closer, error) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		lock, err := durable.OS.Lock(filepath.Join(k.dir, "servers.lock"))
		if !errors.Is(err, durable.ErrLocked) {
			return lock, err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
