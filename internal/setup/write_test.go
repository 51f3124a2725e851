package setup_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/setup"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func answers(t *testing.T, dir string) *setup.Answers {
	t.Helper()
	d, err := address.ParseDomain("example.org")
	if err != nil {
		t.Fatal(err)
	}
	h, err := address.ParseDomain("mx.example.org")
	if err != nil {
		t.Fatal(err)
	}
	return &setup.Answers{Domains: []address.Domain{d}, Hostname: h, DataDir: filepath.Join(dir, "data")}
}

func self() setup.Owner { return setup.Owner{Name: "self", UID: os.Geteuid(), GID: os.Getegid()} }

// prepared is the work of a first run in dir.
func prepared(t *testing.T, dir string, a *setup.Answers, owner setup.Owner) (*setup.Work, error) {
	t.Helper()
	path := filepath.Join(dir, "etc", "cmtpd.toml")
	text, means, err := a.Text(path)
	if err != nil {
		t.Fatal(err)
	}
	return setup.Prepare(path, text, means, owner, now)
}

// TestAnswers_Text: the answers stand where they are explained, and are what is read back.
func TestAnswers_Text(t *testing.T) {
	a := answers(t, "/srv/d\"ir")
	a.Backend, a.Proxy, a.Metrics = "127.0.0.1:10025", config.ProxyV1, "[::1]:9125"
	var err error
	if a.Postmaster, err = address.Parse("alice@example.org"); err != nil {
		t.Fatal(err)
	}
	text, means, err := a.Text("/etc/cmtpd/cmtpd.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Hostname, want.Domains, want.DataDir, want.Postmaster = a.Hostname, a.Domains, a.DataDir, a.Postmaster
	want.SMTP.Mode, want.SMTP.Backend, want.SMTP.ProxyProtocol = config.Relay, a.Backend, a.Proxy
	want.Metrics.Listen = a.Metrics
	if got, w := *setup.AnswersOf(means), *setup.AnswersOf(want); got.Metrics != w.Metrics || got.Hostname != w.Hostname || got.Backend != w.Backend || got.Proxy != w.Proxy || got.DataDir != w.DataDir || got.Postmaster != w.Postmaster {
		t.Errorf("it means %+v, want %+v", got, w)
	}
	if !strings.Contains(text, "\nbackend = \"127.0.0.1:10025\"\n") || !strings.Contains(text, "# The mail server behind cmtpd:") || strings.Contains(text, "\n#backend") {
		t.Errorf("the text is\n%s", text)
	}
	for _, bad := range []func(*setup.Answers){
		func(a *setup.Answers) { a.Backend = "127.0.0.1:25" }, // itself
		func(a *setup.Answers) { a.Backend = "127.0.0.1:x" },
		func(a *setup.Answers) { a.Metrics = "192.0.2.1:9125" },
		func(a *setup.Answers) { a.Postmaster.Domain = a.Hostname },
		func(a *setup.Answers) { a.DataDir = "/" + strings.Repeat("x", 200) },
	} {
		b := *a
		bad(&b)
		if _, _, err := b.Text("/x.toml"); !errors.Is(err, setup.ErrAnswer) || strings.Contains(err.Error(), "x.toml:") {
			t.Errorf("%+v: %v", b, err)
		}
	}
	if _, err := setup.Fill("#a = 1\n", map[string]string{"b": "2"}); err == nil {
		t.Error("a key that the text lacks was lost")
	}
}

// TestWork_Do_Swapped: a data directory whose name leads to another one, or to a full one, when it is made, gives
// nothing of that away.
func TestWork_Do_Swapped(t *testing.T) {
	nobody := self()
	if os.Geteuid() == 0 {
		nobody = setup.Owner{Name: "nobody", UID: 65534, GID: 65534}
	}
	for name, swap := range map[string]func(t *testing.T, data, other string){
		"link": func(t *testing.T, data, other string) { must(t, os.Symlink(other, data)) },
		"full, of root": func(t *testing.T, data, _ string) {
			must(t, os.Mkdir(data, 0o755))
			must(t, os.WriteFile(filepath.Join(data, "x"), nil, 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "link" && os.Geteuid() != 0 {
				cmtptest.LeaveOut(t, "root alone gives directories away")
			}
			dir := t.TempDir()
			other := filepath.Join(dir, "other")
			must(t, os.Mkdir(other, 0o755))
			a := answers(t, dir)
			w, err := prepared(t, dir, a, nobody)
			if err != nil {
				t.Fatal(err)
			}
			swap(t, a.DataDir, other)
			if err := w.Do(); err == nil {
				t.Error("it was taken")
			}
			for _, d := range []string{a.DataDir, other} {
				if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o755 {
					t.Errorf("%s: %v, %v", d, info.Mode(), err)
				}
			}
			if _, err := os.Lstat(w.Config.Path); err == nil {
				t.Error("there is a configuration")
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWork_Do: everything has its mode, and the second run keeps it all.
func TestWork_Do(t *testing.T) {
	dir := t.TempDir()
	a := answers(t, dir)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	w, err := prepared(t, dir, a, self())
	if err != nil || w.Config.State != setup.New || w.DataDir.State != setup.New || w.Key.State != setup.New {
		t.Fatalf("%+v, %v", w, err)
	}
	if err := w.Do(); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{w.Config.Path: 0o644, filepath.Dir(w.Config.Path): 0o755, w.DataDir.Path: 0o700, w.Key.Path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	key := read(t, w.Key.Path)
	w, err = prepared(t, dir, a, self())
	if err != nil || w.Config.State != setup.Kept || w.DataDir.State != setup.Kept || w.Key.State != setup.Kept {
		t.Fatalf("again: %+v, %v", w, err)
	}
	if err := w.Do(); err != nil || read(t, w.Key.Path) != key {
		t.Fatalf("again: %v, the same key: %v", err, read(t, w.Key.Path) == key)
	}

	// Other answers replace it, and keep a copy.
	first := read(t, w.Config.Path)
	a.Backend, a.Proxy = "127.0.0.1:10025", config.ProxyV2
	w, err = prepared(t, dir, a, self())
	if err != nil || w.Config.State != setup.Replaced {
		t.Fatalf("others: %+v, %v", w, err)
	}
	if err := w.Do(); err != nil || read(t, w.Config.Copy) != first || read(t, w.Config.Path) != w.Text || w.Text == first {
		t.Errorf("others: %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPrepare_Refuses what would harm, before anything is written.
// A configuration of comments alone, as the Debian package brings it, is as good as none: it gives way without a copy.
func TestPrepare_SetsNothing(t *testing.T) {
	stub, err := os.ReadFile("../../configs/debian/cmtpd.toml")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]setup.State{string(stub): setup.New, "": setup.New, "\n # x\n\t\n": setup.New, string(stub) + "domains = []\n": setup.Replaced} {
		dir := t.TempDir()
		path := filepath.Join(dir, "etc", "cmtpd.toml")
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := setup.Existing(path); c != nil || (err == nil) != (want == setup.New) {
			t.Errorf("with %q there is %v, %v", text, c, err)
		}
		w, err := prepared(t, dir, answers(t, dir), self())
		if err != nil {
			t.Fatal(err)
		}
		if w.Config.State != want || (w.Config.Copy == "") != (want == setup.New) {
			t.Errorf("with %q the configuration is %+v", text, w.Config)
		}
		if err := w.Do(); err != nil {
			t.Errorf("with %q: %v", text, err)
		}
	}
}

func TestPrepare_Refuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"a spool without its key": {func(dir string) error { return os.MkdirAll(filepath.Join(dir, "data", "spool"), 0o700) }, "restore it from a backup"},
		"a key open to others": {func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "data"), 0o700), os.WriteFile(filepath.Join(dir, "data", "server.key"), nil, 0o644))
		}, "chmod 600"},
		"a file in the directory's place": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "data"), nil, 0o600) }, "data directory"},
	} {
		dir := t.TempDir()
		if err := tt.spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := prepared(t, dir, answers(t, dir), self()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := answers(t, dir)
	a.DataDir = dir
	if _, err := prepared(t, dir, a, setup.Owner{Name: "other", UID: os.Geteuid() + 1}); !errors.Is(err, datadir.ErrOwner) {
		t.Errorf("another's directory: %v", err)
	}
}

// TestWork_Owner: root gives the data to who will serve it, and is root again.
func TestWork_Owner(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil || os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root gives files away, to nobody")
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(nobody.Gid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	owner := setup.Owner{Name: "nobody", UID: uid, GID: gid}
	a := answers(t, dir)
	if err := os.Mkdir(a.DataDir, 0o755); err != nil { // as a package may have left it
		t.Fatal(err)
	}
	w, err := prepared(t, dir, a, owner)
	if err == nil {
		err = w.Do()
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{w.DataDir.Path: uid, w.Key.Path: uid, w.Config.Path: 0} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != want || want == uid && int(st.Gid) != gid {
			t.Errorf("%s is of %d:%d", path, st.Uid, st.Gid)
		}
	}
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		t.Errorf("it is %d:%d now", os.Geteuid(), os.Getegid())
	}

	// Who cannot get there is told so, nor has root's groups for it.
	had, err := syscall.Getgroups()
	must(t, err)
	must(t, syscall.Setgroups([]int{0}))
	defer syscall.Setgroups(had)
	must(t, os.Chmod(w.Config.Path, 0o640))
	w.Config.State = setup.Kept
	if err := w.Do(); err == nil || !strings.Contains(err.Error(), "nobody cannot use it") {
		t.Errorf("of root's group: %v", err)
	}
	if now, err := syscall.Getgroups(); err != nil || !slices.Equal(now, []int{0}) {
		t.Errorf("it is in the groups %v now, %v", now, err)
	}
	must(t, os.Chmod(w.Config.Path, 0o644))
	if err := os.Chmod(filepath.Dir(w.Config.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Do(); err == nil || !strings.Contains(err.Error(), "nobody cannot use it") {
		t.Errorf("%v", err)
	}
}

// TestWork_Crash fails every call of replacing a configuration, and crashes: it is the former or the new one, and the
// former one is not lost.
func TestWork_Crash(t *testing.T) {
	for _, fault := range []durabletest.Fault{durabletest.None, durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			reached := false
			for seed := range uint64(20) {
				fsys := durabletest.New()
				if err := durable.WriteFile(fsys, "/cmtpd.toml", []byte("former"), 0o644); err != nil {
					t.Fatal(err)
				}
				first := fsys.Calls()
				fsys.Inject(func(c durabletest.Call) durabletest.Fault {
					if c.N != first+n {
						return durabletest.None
					}
					reached = true
					return fault
				})
				w := &setup.Work{Config: setup.File{Path: "/cmtpd.toml", State: setup.Replaced, Copy: "/copy"}, Text: "the new one"}
				err := setup.WriteConfigOn(w, fsys)
				var r *rand.Rand
				if seed > 0 {
					r = rand.New(rand.NewPCG(seed, 0))
				}
				after := fsys.Crash(r)
				got, _ := durable.ReadFile(after, "/cmtpd.toml", 100)
				kept, _ := durable.ReadFile(after, "/copy", 100)
				if s := string(got); s != w.Text && (err == nil || s != "former") || s != "former" && string(kept) != "former" {
					t.Fatalf("call %d, fault %d, seed %d: %v, then %q and %q", n, fault, seed, err, got, kept)
				}
			}
			if !reached {
				if n < 7 {
					t.Fatalf("there were only %d calls", n-1)
				}
				break
			}
		}
	}
}
