package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/backup"
	"cmtpd/internal/config"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

func configOf(dir string) *config.Config { return &config.Config{DataDir: dir} }

// openSpool opens a server's spool as its daemon does.
func openSpool(t *testing.T, cfg *config.Config) *spool.Spool {
	t.Helper()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	identity, _, err := keyfile.LoadOrCreate(cfg.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := keyfile.LoadOrCreate(cfg.SpoolKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(cfg.SpoolDir(), spool.Options{FS: durable.OS, Key: key, Identity: identity,
		SegmentSize: 32 << 10, LargeThreshold: 4 << 10, CompactRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func store(s *spool.Spool, data []byte) (spool.Stored, error) {
	w := s.NewWriter()
	if _, err := w.Write(data); err != nil {
		return spool.Stored{}, err
	}
	return w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID{1}, Digest: sha256.Sum256(data)})
}

func read(s *spool.Spool, id spool.ID) ([]byte, error) {
	r, err := s.Open(id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// A server stores, removes and compacts until it is told to stop.
type server struct {
	mu     sync.Mutex
	kept   map[spool.ID][]byte // of messages that stay
	stored chan struct{}
	stop   chan struct{}
	wg     sync.WaitGroup
}

func run(t *testing.T, s *spool.Spool) *server {
	v := &server{kept: make(map[spool.ID][]byte), stored: make(chan struct{}), stop: make(chan struct{})}
	v.wg.Go(func() {
		for i := 0; ; i++ {
			data := bytes.Repeat(fmt.Appendf(nil, "%d ", i), 20+i%1500)
			st, err := store(s, data)
			if err == nil && i%2 == 0 {
				err = s.Remove(context.Background(), st.ID, "admin")
			} else if err == nil {
				v.mu.Lock()
				v.kept[st.ID] = data
				v.mu.Unlock()
			}
			if err == nil && i%20 == 19 {
				err = s.Compact(context.Background())
			}
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case v.stored <- struct{}{}:
			case <-v.stop:
				return
			default:
			}
		}
	})
	return v
}

func (v *server) snapshot() map[spool.ID][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := make(map[spool.ID][]byte, len(v.kept))
	for id, data := range v.kept {
		m[id] = data
	}
	return m
}

// TestMake_Load makes backups while the server stores, removes and compacts, and restores each.
func TestMake_Load(t *testing.T) {
	dir := t.TempDir()
	cfg := configOf(filepath.Join(dir, "data"))
	s := openSpool(t, cfg)
	v := run(t, s)
	for i := range 4 {
		for range 60 {
			<-v.stored
		}
		must := v.snapshot()
		to := filepath.Join(dir, fmt.Sprintf("backup%d", i))
		m, err := backup.Make(t.Context(), cfg, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		other := configOf(filepath.Join(dir, fmt.Sprintf("restored%d", i)))
		head, err := spool.ParseHead(m.Head)
		if err != nil {
			t.Fatal(err)
		}
		r, err := backup.Restore(t.Context(), to, other, nil, head)
		if err != nil {
			t.Fatal(err)
		}
		again := openSpool(t, other)
		if again.Head() != r.Head || again.Key() != r.Key || again.Key() == s.Key() || r.Head.Number != head.Number+1 {
			t.Errorf("head %s, key %s; Restore said %s, %s", again.Head(), again.Key(), r.Head, r.Key)
		}
		for id, data := range must {
			if got, err := read(again, id); err != nil || !bytes.Equal(got, data) {
				t.Errorf("backup %d: message %s: %d bytes, %v", i, id, len(got), err)
			}
		}
		st, err := store(again, []byte("after"))
		if err != nil || st.ID < 1<<32 {
			t.Errorf("the next message is %s, %v", st.ID, err)
		}
		again.Close()
		t.Logf("backup %d: %d messages, %d of them for certain", i, m.Messages, len(must))
	}
	close(v.stop)
	v.wg.Wait()
}

// What ends a backup early leaves nothing.
func TestMake_Cancelled(t *testing.T) {
	dir := t.TempDir()
	cfg := configOf(filepath.Join(dir, "data"))
	s := openSpool(t, cfg)
	if _, err := store(s, []byte("one")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := backup.Make(ctx, cfg, filepath.Join(dir, "backup"), func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("there is %v, %v", names, err)
	}
}

// A backup of another time's manifest, or of another server's, is refused.
func TestRestore_Manifest(t *testing.T) {
	dir := t.TempDir()
	cfg := configOf(filepath.Join(dir, "data"))
	s := openSpool(t, cfg)
	to := filepath.Join(dir, "backup")
	if _, err := store(s, []byte("one")); err != nil {
		t.Fatal(err)
	}
	m, err := backup.Make(t.Context(), cfg, to, nil)
	if err != nil || m.Messages != 1 || time.Since(m.Time) > time.Hour {
		t.Fatal(m, err)
	}
	path := filepath.Join(to, "backup.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, old, new string
		want           error
	}{
		{"format", `"format": 1`, `"format": 2`, backup.ErrFormat},
		{"no JSON", `{`, ``, backup.ErrFormat},
		{"head", `"head": "`, `"head": "x`, backup.ErrFormat},
		{"messages", `"messages": 1`, `"messages": 2`, backup.ErrMismatch},
		{"commits", `"commits": 2`, `"commits": 3`, backup.ErrMismatch},
		{"accounts", `"accounts": 0`, `"accounts": 1`, backup.ErrMismatch},
		{"identity", m.Identity, "AAAA", backup.ErrMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := bytes.Replace(whole, []byte(tt.old), []byte(tt.new), 1)
			if bytes.Equal(changed, whole) {
				t.Fatal("nothing was changed")
			}
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			other := configOf(filepath.Join(t.TempDir(), "data"))
			if _, err := backup.Restore(t.Context(), to, other, nil); !errors.Is(err, tt.want) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(other.DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a data directory: %v", err)
			}
		})
	}
}

// TestMake_Nowhere: where DIR cannot be is not told as if it were there.
func TestMake_Nowhere(t *testing.T) {
	cfg := configOf(filepath.Join(t.TempDir(), "data"))
	openSpool(t, cfg)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"BelowFile": filepath.Join(file, "backup"), "NoParent": filepath.Join(t.TempDir(), "none", "backup")} {
		if _, err := backup.Make(context.Background(), cfg, dir, nil); err == nil || errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "belongs to the user who runs this") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := backup.Make(context.Background(), cfg, file, nil); !errors.Is(err, backup.ErrExists) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("in the place of a file: %v", err)
	}
}

// A backup within the data directory goes with it, whatever way leads there.
func TestMake_Inside(t *testing.T) {
	dir := t.TempDir()
	cfg := configOf(filepath.Join(dir, "data"))
	openSpool(t, cfg)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(cfg.DataDir, link); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{cfg.DataDir + "/backup", link + "/backup", cfg.SpoolDir() + "/../backup"} {
		if _, err := backup.Make(context.Background(), cfg, to, nil); !errors.Is(err, backup.ErrInside) {
			t.Errorf("%s: %v", to, err)
		}
	}
	if _, err := backup.Make(context.Background(), configOf(link), filepath.Join(cfg.DataDir, "backup"), nil); !errors.Is(err, backup.ErrInside) {
		t.Error(err)
	}
	if _, err := backup.Make(context.Background(), cfg, filepath.Join(dir, "backup"), nil); err != nil {
		t.Error(err)
	}
}

// A restored server knows in which order its former keys were followed.
func TestMake_FormerOrder(t *testing.T) {
	dir := t.TempDir()
	cfg, other := configOf(filepath.Join(dir, "data")), configOf(filepath.Join(dir, "restored"))
	openSpool(t, cfg)
	for n := range 6 {
		made := filepath.Join(dir, "key")
		key, _, err := keyfile.LoadOrCreate(made)
		if err != nil {
			t.Fatal(err)
		}
		path := keyfile.FormerPath(cfg.KeyFile(), key.Public())
		if err := os.Rename(made, path); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(n-10) * time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "backup")
	if _, err := backup.Make(t.Context(), cfg, to, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), to, other, nil); err != nil {
		t.Fatal(err)
	}
	was, err := keyfile.Former(cfg.KeyFile())
	is, err2 := keyfile.Former(other.KeyFile())
	if err := errors.Join(err, err2); err != nil || len(was) != 6 || len(is) != 6 {
		t.Fatalf("%d and %d former keys, %v", len(was), len(is), err)
	}
	for n := range was {
		if was[n].Public() != is[n].Public() {
			t.Errorf("former key %d is another one after the restore", n)
		}
	}
}
