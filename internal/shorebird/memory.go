package shorebird

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"cmtpd/internal/durable"
)

// A memory is a JSON file of what is remembered of others, by name. The file is
// shared by all that run at once: it is read and written under a lock.
type memory[T any] struct {
	dir  string
	name string // of the file, without its extension
	what string // for errors: the remembered ...
	lost string // what it means to be without the file
}

const maxMemory = 16 << 20 // bytes

func (m memory[T]) path() string { return filepath.Join(m.dir, m.name+".json") }

func (m memory[T]) load() (map[string]T, error) {
	known := map[string]T{}
	b, err := durable.ReadFile(durable.OS, m.path(), maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil {
		return nil, hint(fmt.Errorf("reading the remembered %s in %s: %w", m.what, m.path(), err),
			"Restore the file from a backup. Without it "+m.lost+".")
	}
	return known, nil
}

// change lets do change what is remembered, unless it returns an error.
func (m memory[T]) change(ctx context.Context, do func(map[string]T) error) error {
	lock, err := m.lock(ctx)
	if err != nil {
		return fmt.Errorf("locking the remembered %s: %w", m.what, err)
	}
	defer lock.Close()
	known, err := m.load()
	if err != nil {
		return err
	}
	if err := do(known); err != nil {
		return err
	}
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return fmt.Errorf("remembering %s: %w", m.what, err)
	}
	if err := durable.WriteFile(durable.OS, m.path(), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("remembering %s: %w", m.what, err)
	}
	return nil
}

// forget returns what was remembered of a name, and is not any more.
func (m memory[T]) forget(ctx context.Context, name string) (was T, err error) {
	err = m.change(ctx, func(known map[string]T) error {
		var ok bool
		if was, ok = known[name]; !ok {
			return fmt.Errorf("forgetting %s: %w", name, errUnknown)
		}
		delete(known, name)
		return nil
	})
	return was, err
}

// lock waits for its turn; the others hold it for one flush each.
func (m memory[T]) lock(ctx context.Context) (io.Closer, error) {
	return lockFile(ctx, filepath.Join(m.dir, m.name+".lock"), func() {})
}

// lockFile waits for its turn with a lock file, and calls waits where it is not at once.
func lockFile(ctx context.Context, path string, waits func()) (io.Closer, error) {
	lock, err := durable.OS.Lock(path)
	if !errors.Is(err, durable.ErrLocked) {
		return lock, err
	}
	waits()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		lock, err := durable.OS.Lock(path)
		if !errors.Is(err, durable.ErrLocked) {
			return lock, err
		}
	}
}
