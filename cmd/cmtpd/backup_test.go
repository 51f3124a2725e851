package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// TestBackup_Load makes backups beside a daemon under load, and restores each: all that SUCCESS was
// sent for before a backup began is in it, byte for byte, and a daemon goes on from there.
func TestBackup_Load(t *testing.T) {
	t.Parallel()
	const large = 64 << 10
	settings := cmtptest.Settings{"limits.large_message": `"64KiB"`}
	site := cmtptest.NewSite(t, settings)
	site.Program = cmtptest.Release(t)
	accounts := []string{"alice", "bob", "carol"}
	site.AddUsers(t, accounts...)
	boxes := make(map[string]string)
	for _, a := range accounts {
		boxes[a] = decode[admin.UserView](t, site.Must(t, "", "user", "show", a+"@"+cmtptest.Domain, "--json")).ID
	}
	ledger := cmtptest.NewLedger(*crashSeed, large, accounts...)
	d := site.Start(t)
	first, end := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer end()
	if err := ledger.Load(first, d.Shared[0], 4); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ledger.Load(ctx, d.Shared[0], 4) }()
	const backups = 3
	var acked [backups]map[[32]byte]bool
	dir := func(i int) string { return filepath.Join(site.Dir, fmt.Sprintf("backup%d", i)) }
	for i := range backups {
		acked[i] = ledger.Acked()
		site.Must(t, "", "backup", dir(i))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	d.Stop(t)
	for i := range backups {
		other := cmtptest.NewSite(t, settings)
		out := other.Must(t, "", "restore", dir(i), "--json")
		other.Must(t, "", "spool", "verify", "--head", decode[struct {
			Head string `json:"backup_head"`
		}](t, out).Head)
		s, err := spool.OpenReadOnly(filepath.Join(other.Data, "spool"), durable.OS)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckSince(s, boxes, acked[i]); err != nil {
			t.Errorf("backup %d: %v", i, err)
		}
		t.Logf("backup %d: %d messages, %d acknowledged before", i, s.Stats().Messages, len(acked[i]))
		s.Close()
		again := other.Start(t)
		if err := cmtptest.Deliver(t.Context(), again.Shared[0], &cmtptest.Letter{To: "bob", Parts: []cmtptest.Noise{{Seed: 9, Length: 100}}}); err != nil {
			t.Error(err)
		}
		again.Stop(t)
		other.Must(t, "", "spool", "verify")
	}
}

// TestRestore_Within restores where only the data directory itself can be written, as
// /var/lib/cmtpd.
func TestRestore_Within(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "alice")
	d := site.Start(t)
	if err := cmtptest.Deliver(t.Context(), d.Shared[0], &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: 1, Length: 500}}}); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	from := filepath.Join(site.Dir, "backup")
	site.Must(t, "", "backup", from)
	if err := os.RemoveAll(site.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(site.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	user := os.Geteuid()
	if user == 0 { // whom a mode does not stop
		user = 65534
		err := filepath.WalkDir(from, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Chown(path, user, user)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(site.Data, user, user); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(site.Config, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The program itself lies where only its maker may look.
	program := filepath.Join(site.Dir, "cmtpd")
	b, err := os.ReadFile(site.Command)
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(filepath.Dir(site.Dir), 0o755), os.Chmod(site.Dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(site.Dir, 0o755)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := exec.Command(program, append(args, "--config", site.Config)...)
		c.Stdout, c.Stderr, c.Dir = &out, &out, "/"
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
		}
		err := c.Run()
		return out.String(), err
	}
	segment := filepath.Join(from, "spool", "log", "0000000000000001.seg")
	if b, err = os.ReadFile(segment); err != nil {
		t.Fatal(err)
	}
	b[900] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("restore", from); err == nil || !strings.Contains(out, "not as it was written") || len(entries(t, site.Data)) > 0 {
		t.Fatalf("a damaged backup: %v, %s; there is %v", err, out, entries(t, site.Data))
	}
	b[900] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("restore", from); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run("spool", "verify"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, e := range entries(t, site.Data) {
		if name := fmt.Sprint(e); strings.Contains(name, "restore") {
			t.Errorf("%s was left", name)
		}
	}
}

// TestBackup_LostEnd damages the newest commit under a running daemon: to who has only the files it looks as
// if it had never been finished, but the daemon knows of it.
func TestBackup_LostEnd(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "bob")
	d := site.Start(t)
	deliver(t, d, &cmtptest.Letter{To: "bob", Parts: []cmtptest.Noise{{Seed: 1, Length: 100}}})
	site.Must(t, "", "backup", filepath.Join(site.Dir, "whole"))
	logs, err := filepath.Glob(filepath.Join(site.Data, "spool", "log", "*"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	b, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-50] ^= 1
	if err := os.WriteFile(logs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(site.Dir, "cut")
	r := site.Run(t, "", "backup", dir)
	if r.Status == 0 || !strings.Contains(r.Err, "does not contain") {
		t.Errorf("exit status %d\n%s", r.Status, r.Err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a backup was made: %v", err)
	}
	d.Kill()
}
