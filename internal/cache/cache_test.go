package cache_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cache"
	"cmtpd/internal/crypt"
)

// A rotated key opens what an older one has made; a key that does not fit makes a new one.
func TestOpen_Keys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "anna.mail")
	old, newer, other := newKey(t), newKey(t), newKey(t)
	c := open(t, dir, old)
	if err := c.SaveDraft(t.Context(), &cache.Draft{Subject: "kept"}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, keys := range [][]*crypt.PrivateKey{{newer, old}, {old, newer}, {newer, other, old}} {
		c := open(t, dir, keys...)
		if d, err := c.Drafts(t.Context()); err != nil || len(d) != 1 {
			t.Errorf("%+v, %v", d, err)
		}
		c.Close()
	}
	if _, err := cache.Open(t.Context(), dir, []*crypt.PrivateKey{other}, cache.Options{Leave: true}); err == nil || !strings.Contains(err.Error(), "none of the account's keys") {
		t.Errorf("what no key opens, and is to be left: %v", err)
	}
	c, notes := openNoted(t, dir, other)
	if d, err := c.Drafts(t.Context()); err != nil || len(d) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "none of the account's keys") {
		t.Errorf("%+v, %v, %q", d, err, notes)
	}
	aside, err := filepath.Glob(dir + ".2*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %q, %v", aside, err)
	}
	c = open(t, aside[0], old)
	if d, err := c.Drafts(t.Context()); err != nil || len(d) != 1 {
		t.Errorf("in what was set aside: %+v, %v", d, err)
	}
	if _, err := cache.Open(t.Context(), dir, nil, cache.Options{}); err == nil {
		t.Error("no key is taken")
	}
}

// What is damaged, wherever, is set aside once that is met, and nothing of it is taken for mail.
func TestOpen_Damaged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
	}{
		{"Header", func(b []byte) []byte { b[20] ^= 1; return b }},
		{"Schema", func(b []byte) []byte { b[3000] ^= 1; return b }},
		{"Cut", func(b []byte) []byte { return b[:len(b)/2] }},
		{"Short", func(b []byte) []byte { return b[:100] }},
		{"Noise", func(b []byte) []byte {
			for i := 4096 + 100; i < len(b); i += 4096 {
				b[i] ^= 1
			}
			return b
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, key := filepath.Join(t.TempDir(), "anna.mail"), newKey(t)
			c, b := open(t, dir, key), newBox()
			for i := range 20 {
				b.arrive(text("ben@b.example", "anna@a.example", long(fmt.Sprint("letter ", i))))
			}
			run(t, c, b)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "mail.db")
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.damage(whole), 0o600); err != nil {
				t.Fatal(err)
			}
			c, notes := openNoted(t, dir, key)
			if len(notes) == 0 {
				if err := readAll(t, c); !errors.Is(err, cache.ErrDamaged) {
					t.Errorf("reading what is damaged: %v", err)
				}
				c.Close()
				c, notes = openNoted(t, dir, key)
			}
			if len(notes) != 1 || !strings.Contains(notes[0], "set aside") {
				t.Fatalf("notes: %q", notes)
			}
			if r := run(t, c, b); r.Fetched != 20 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// readAll reads until damage is met, and returns it.
func readAll(t *testing.T, c *cache.Cache) error {
	all, err := c.List(t.Context(), cache.Filter{})
	for i := 0; err == nil && i < len(all); i++ {
		var m *cache.Message
		if m, err = c.Message(t.Context(), all[i].ID); err == nil && m.Opened.Text != long(m.Opened.Subject) {
			t.Fatal("damaged text is given out")
		}
		if err == nil {
			_, err = c.Sealed(t.Context(), all[i].ID)
		}
	}
	return err
}

// long is the text of a letter with several pages.
func long(subject string) string { return subject + "\n" + strings.Repeat("long ", 3000) }

// A single block that was altered, whichever, is met before anything of it is given out.
func TestCache_Message_Altered(t *testing.T) {
	top, key := t.TempDir(), newKey(t)
	c, b := open(t, filepath.Join(top, "whole"), key), newBox()
	for i := range 20 {
		b.arrive(text("ben@b.example", "anna@a.example", long(fmt.Sprint("letter ", i))))
	}
	run(t, c, b)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(top, "whole", "mail.db"))
	if err != nil {
		t.Fatal(err)
	}
	met := 0
	for n := range 40 {
		page := 1 + rand.IntN(len(whole)/4096-1)
		altered := bytes.Clone(whole)
		altered[page*4096+rand.IntN(4096)] ^= 1
		dir := filepath.Join(top, fmt.Sprint(n))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "mail.db"), altered, 0o600)); err != nil {
			t.Fatal(err)
		}
		c, notes := openNoted(t, dir, key)
		err := readAll(t, c)
		if err != nil && !errors.Is(err, cache.ErrDamaged) {
			t.Errorf("with page %d altered: %v", page, err)
		}
		if err != nil || len(notes) > 0 {
			met++
		}
		c.Close()
	}
	if met < 20 {
		t.Errorf("damage was met %d times of 40", met)
	}
}

// A copy of another version is set aside.
func TestOpen_Version(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "anna.mail"), newKey(t)
	c := open(t, dir, key)
	if err := cache.SetVersion(c, 7); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, notes := openNoted(t, dir, key); len(notes) != 1 || !strings.Contains(notes[0], "version 7") {
		t.Errorf("notes: %q", notes)
	}
}

// Nothing that the copy is given is on the disk as it was, in any file, open or closed; and nobody else
// may read the files.
func TestCache_Plaintext(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "data", "anna.mail")
	key := newKey(t)
	c, b, ctx := open(t, dir, key), newBox(), t.Context()
	const secret = "xylophone"
	for i := range 300 {
		b.arrive(text("xylophone@b.example", "anna@a.example", fmt.Sprintf("%s %d\n%s", secret, i, strings.Repeat(secret+" ", 300))))
	}
	run(t, c, b)
	all := list(t, c, cache.Filter{})
	for _, err := range []error{
		c.Change(ctx, []int64{all[0].ID}, cache.Note{Add: []string{secret}}),
		c.SaveDraft(ctx, &cache.Draft{Subject: secret, Recipients: []string{secret}, Text: strings.Repeat(secret, 10_000)}),
		second(c.Queue(ctx, 1)),
		c.Seal(ctx, 1, func(w io.Writer) (cache.Digest, error) {
			_, err := io.WriteString(w, strings.Repeat(secret, 100_000))
			return cache.Digest{}, err
		}),
		second(c.Search(ctx, secret+" -nothing", cache.Filter{Limit: 1000})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	seed := key.Bytes()[:crypt.SeedSize]
	look := func(when string) {
		t.Helper()
		files, size := 0, int64(0)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil || d.IsDir() {
				if d.IsDir() && path != top && info.Mode().Perm() != 0o700 {
					t.Errorf("%s: %s has mode %o", when, path, info.Mode().Perm())
				}
				return err
			}
			files, size = files+1, size+info.Size()
			if filepath.Ext(path) != ".lock" && info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s has mode %o", when, path, info.Mode().Perm())
			}
			bytesOf, err := os.ReadFile(path)
			for _, s := range []string{secret, "SQLite", "CREATE TABLE", "b.example", "anna@", string(seed)} {
				if strings.Contains(path, "anna.mail") && bytes.Contains(bytesOf, []byte(s)) {
					t.Errorf("%s: %s has %q in it", when, path, s)
				}
			}
			return err
		})
		if err != nil || files < 2 || size < 1<<20 {
			t.Errorf("%s: %d files of %d bytes, %v", when, files, size, err)
		}
	}
	look("open")
	c.Close()
	look("closed")
}

// Several processes use one copy at the same time.
func TestCache_Together(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "anna.mail"), newKey(t)
	b := newBox()
	for i := range 100 {
		b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprint("letter ", i)))
	}
	var all, ready sync.WaitGroup
	ready.Add(4)
	var mu sync.Mutex
	fetched := 0
	for k := range 4 {
		all.Go(func() {
			c, err := cache.Open(t.Context(), dir, []*crypt.PrivateKey{key}, cache.Options{Note: func(s string) { t.Error(s) }})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			ready.Done()
			ready.Wait()
			s := b.session()
			s.gave = func(cache.Digest, uint64) { mu.Lock(); fetched++; mu.Unlock() }
			if _, err := syncer(c).Run(t.Context(), s); err != nil {
				t.Error(err)
			}
			for i := range 10 {
				if err := c.SaveDraft(t.Context(), &cache.Draft{Subject: fmt.Sprint(k, i)}); err != nil {
					t.Error(err)
				}
				if all, err := c.List(t.Context(), cache.Filter{Limit: 200}); err != nil || len(all) != 100 {
					t.Errorf("%d messages, %v", len(all), err)
				}
			}
		})
	}
	all.Wait()
	if fetched != 100 {
		t.Errorf("%d messages were fetched, of 100", fetched)
	}
	if d, err := open(t, dir, key).Drafts(t.Context()); err != nil || len(d) != 40 {
		t.Errorf("%d drafts, %v", len(d), err)
	}
}

// What was said to be kept is there after the process was killed at any moment, and a sync goes on.
func TestCache_Killed(t *testing.T) {
	if dir := os.Getenv("CACHE_TEST_KILLED"); dir != "" {
		killed(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "anna.mail")
	drafts, fetched := map[string]bool{}, 0
	for try := range 15 {
		kill(t, dir, drafts)
		c := open(t, dir, killedKey(t))
		have, err := c.Drafts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for name := range drafts {
			if !slices.ContainsFunc(have, func(d cache.Draft) bool { return d.Subject == name }) {
				t.Fatalf("after kill %d draft %s is not there, of %d", try, name, len(drafts))
			}
		}
		before := fetched
		fetched = 0
		for _, m := range list(t, c, cache.Filter{Limit: 1000}) {
			if m.State == cache.Kept {
				fetched++
			}
		}
		if fetched < before {
			t.Fatalf("after kill %d there are %d messages, and there were %d", try, fetched, before)
		}
		c.Close()
	}
	if len(drafts) < 15 {
		t.Errorf("only %d drafts were made", len(drafts))
	}
	c := open(t, dir, killedKey(t))
	if r := run(t, c, killedBox()); r.Fetched+fetched != 400 {
		t.Errorf("%d messages were there, and %d fetched", fetched, r.Fetched)
	}
	if n := len(list(t, c, cache.Filter{Limit: 1000})); n != 400 {
		t.Errorf("%d messages", n)
	}
}

// kill lets a process use the copy and kills it, and notes the drafts that it says are kept.
func kill(t *testing.T, dir string, drafts map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCache_Killed$", "-test.v")
	cmd.Env = append(os.Environ(), "CACHE_TEST_KILLED="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	for said := 0; lines.Scan(); {
		name, ok := strings.CutPrefix(lines.Text(), "draft ")
		if !ok {
			continue
		}
		if drafts[name] = true; said == 0 {
			timer.Reset(time.Duration(rand.IntN(150)) * time.Millisecond)
		}
		said++
	}
	timer.Stop()
	cmd.Wait() // killed
}

func killedKey(t *testing.T) *crypt.PrivateKey {
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{9}, crypt.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func killedBox() *fakeBox {
	b := newBox()
	b.page = 20
	for i := range 400 {
		b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprintf("letter %d\n%s", i, strings.Repeat("text ", 200))))
	}
	return b
}

// killed is the process that is killed.
func killed(t *testing.T, dir string) {
	c, b := open(t, dir, killedKey(t)), killedBox()
	go func() {
		for t.Context().Err() == nil {
			if _, err := syncer(c).Run(t.Context(), b.session()); err != nil {
				panic(err)
			}
		}
	}()
	for i := 0; ; i++ {
		d := &cache.Draft{Subject: fmt.Sprint(os.Getpid(), ".", i)}
		if err := c.SaveDraft(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		fmt.Println("draft", d.Subject)
	}
}
