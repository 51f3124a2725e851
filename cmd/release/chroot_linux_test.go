package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/version"
)

// A chroot is a small Debian in a directory. Each command runs among mounts of its own, so that none is left behind.
type chroot struct {
	dir  string
	boot *exec.Cmd // makes it
	said bytes.Buffer
}

// newChroot begins to make one, or says why it cannot.
func newChroot(t *testing.T) (c *chroot, why string) {
	t.Helper()
	for _, program := range []string{"debootstrap", "unshare", "chroot", "apt-get", "mandoc", "col"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, program + " is not installed"
		}
	}
	if os.Geteuid() != 0 {
		return nil, "a chroot is made only by root"
	}
	c = &chroot{dir: filepath.Join(t.TempDir(), "debian")}
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "debootstrap", "--variant=minbase", "bookworm", c.dir}
	if m := mirror(t); m != "" {
		args = append(args, m)
	}
	ctx, stop := context.WithCancel(context.Background())
	c.boot = exec.CommandContext(ctx, "unshare", args...)
	c.boot.Env = os.Environ()
	if proxy := run(t, "sh", "-c", `eval "$(apt-config shell proxy Acquire::http::Proxy)"; printf %s "$proxy"`); proxy != "" {
		c.boot.Env = append(c.boot.Env, "http_proxy="+proxy)
	}
	c.boot.Stdout, c.boot.Stderr = &c.said, &c.said
	check(t, c.boot.Start())
	t.Cleanup(func() {
		stop()
		c.boot.Wait() // an error when it is over already
	})
	return c, ""
}

// wait waits until it is made.
func (c *chroot) wait(t *testing.T) {
	t.Helper()
	if err := c.boot.Wait(); err != nil {
		cmtptest.LeaveOut(t, fmt.Sprintf("debootstrap fails, without a mirror of Debian it seems: %v\n%s", err, c.said.String()))
	}
}

// mirror returns where this machine has Debian from, or "" when apt does not say so.
func mirror(t *testing.T) string {
	t.Helper()
	out := run(t, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(SITE)", "Created-By: Packages")
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) == 4 && f[0] == "Debian" && f[1] == "main" && !strings.Contains(f[2], "-") {
			return f[3]
		}
	}
	return ""
}

// try runs a command inside, with nothing on standard input that a question could be answered with.
func (c *chroot) try(args ...string) (string, error) {
	cmd := exec.Command("unshare", append([]string{"--mount", "chroot", c.dir}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *chroot) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if err != nil {
		t.Fatalf("in the chroot, %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *chroot) path(name string) string { return filepath.Join(c.dir, name) }

// put copies a package into /root, which is not watched.
func (c *chroot) put(t *testing.T, deb string) (inside string) {
	t.Helper()
	b, err := os.ReadFile(deb)
	check(t, err)
	inside = "/root/" + filepath.Base(deb)
	check(t, os.WriteFile(c.path(inside), b, 0o644))
	return inside
}

// unwatched are the directories in which apt and dpkg keep what they know.
var unwatched = []string{"root", "var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "tmp", "proc", "sys", "dev", "run"}

// snapshot tells what is in the file system: a line for each path.
func (c *chroot) snapshot(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	check(t, fs.WalkDir(os.DirFS(c.dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(unwatched, name) {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d", info.Mode(), owner.Uid, owner.Gid)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(c.path(name))
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(b))
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(c.path(name))
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		all[name] = text
		return nil
	}))
	return all
}

// changed returns what differs between two snapshots, in order: +new, -gone, ~other.
func changed(before, after map[string]string) (names []string) {
	for name, text := range after {
		switch old, ok := before[name]; {
		case !ok:
			names = append(names, "+"+name)
		case old != text:
			names = append(names, "~"+name)
		}
	}
	for name := range maps.Keys(before) {
		if _, ok := after[name]; !ok {
			names = append(names, "-"+name)
		}
	}
	slices.Sort(names)
	return names
}

// accounts are what the user is written into.
var accounts = []string{"~etc/group", "~etc/gshadow", "~etc/passwd", "~etc/shadow"}

// live installs, sets up, upgrades, removes and purges the packages in a Debian without systemd.
func (c *chroot) live(t *testing.T, out string) {
	c.wait(t)
	var first []string
	for _, program := range []string{"cmtpd", "shorebird"} {
		first = append(first, c.put(t, filepath.Join(out, program+"_"+version.Number+"_"+runtime.GOARCH+".deb")))
	}
	later := version.Number + "+later"
	next := t.TempDir()
	release(t, source, next, "-deb", "-version", later, "-arch", runtime.GOARCH)
	second := c.put(t, filepath.Join(next, "cmtpd_"+later+"_"+runtime.GOARCH+".deb"))
	fresh := c.snapshot(t)

	if said := c.run(t, append([]string{"apt-get", "install", "-y"}, first...)...); !strings.Contains(said, "Set it up with: cmtpd init") {
		t.Errorf("an administrator is not told what to do:\n%s", said)
	}
	c.installed(t)
	c.noLinks(t)
	c.upgrade(t, second, later, c.setUp(t))
	c.purge(t, fresh)

	// Again, never set up: nothing is there to keep.
	check(t, os.RemoveAll(c.path("var/lib/cmtpd")))
	c.run(t, append([]string{"apt-get", "install", "-y"}, first...)...)
	c.run(t, "apt-get", "purge", "-y", "cmtpd", "shorebird")
	if got := c.left(t, fresh); !slices.Equal(got, accounts) {
		t.Errorf("purging leaves %q, want %q", got, accounts)
	}
	if said := c.run(t, "dpkg", "--audit"); said != "" {
		t.Errorf("dpkg --audit says:\n%s", said)
	}
}

// setUp does what an administrator does, and enables the units; then there is mail. It returns the configuration.
func (c *chroot) setUp(t *testing.T) (config []byte) {
	t.Helper()
	c.run(t, "cmtpd", "init", "--yes", "--domain", "example.org", "--hostname", "mx.example.org", "--backend", "none", "--without-dns")
	config, err := os.ReadFile(c.path("etc/cmtpd/cmtpd.toml"))
	check(t, err)
	if found, err := filepath.Glob(c.path("etc/cmtpd/*")); len(found) != 1 || err != nil {
		t.Errorf("init leaves %q", found)
	}
	config = append(config, "# a line of the administrator's\n"...)
	check(t, os.WriteFile(c.path("etc/cmtpd/cmtpd.toml"), config, 0o644))
	check(t, os.WriteFile(c.path("etc/cmtpd/cmtpd.toml.before-20261127T000000Z"), nil, 0o644))
	check(t, os.WriteFile(c.path("var/lib/cmtpd/letter"), []byte("of somebody"), 0o600))
	for wants, unit := range map[string]string{"sockets": "cmtpd.socket", "multi-user": "cmtpd.service"} {
		dir := c.path("etc/systemd/system/" + wants + ".target.wants")
		check(t, os.MkdirAll(dir, 0o755))
		check(t, os.Symlink("/lib/systemd/system/"+unit, filepath.Join(dir, unit)))
	}
	return config
}

// upgrade installs a later version's package, and expects everything of the administrator's as it was.
func (c *chroot) upgrade(t *testing.T, deb, later string, config []byte) {
	t.Helper()
	if said := c.run(t, "apt-get", "install", "-y", deb); strings.Contains(said, "cmtpd init") || strings.Contains(said, "onfiguration file") {
		t.Errorf("an upgrade says:\n%s", said)
	}
	if got := c.run(t, "dpkg-query", "-W", "-f", "${Version}", "cmtpd"); got != later {
		t.Errorf("after the upgrade there is %s", got)
	}
	if b, err := os.ReadFile(c.path("etc/cmtpd/cmtpd.toml")); !bytes.Equal(b, config) || err != nil {
		t.Errorf("the upgrade left of the configuration %q, %v", b, err)
	}
	if found, err := filepath.Glob(c.path("etc/cmtpd/*")); len(found) != 2 || err != nil {
		t.Errorf("the upgrade left %q", found)
	}
	if links := c.links(t); len(links) != 2 {
		t.Errorf("the upgrade left the links %q", links)
	}
}

// purge removes the packages, which keeps the configuration, and purges them, which leaves mail and keys alone.
func (c *chroot) purge(t *testing.T, fresh map[string]string) {
	t.Helper()
	c.run(t, "apt-get", "remove", "-y", "cmtpd", "shorebird")
	for _, name := range []string{"etc/cmtpd/cmtpd.toml", "var/lib/cmtpd/letter"} {
		if _, err := os.Stat(c.path(name)); err != nil {
			t.Errorf("removing took it: %v", err)
		}
	}
	said := c.run(t, "apt-get", "purge", "-y", "cmtpd", "shorebird")
	if !strings.Contains(said, "The mail and the keys in /var/lib/cmtpd are left") {
		t.Errorf("purging says:\n%s", said)
	}
	c.noLinks(t)
	want := slices.Concat([]string{"+var/lib/cmtpd", "+var/lib/cmtpd/letter", "+var/lib/cmtpd/server.key"}, accounts)
	if got := c.left(t, fresh); !slices.Equal(got, want) {
		t.Errorf("purging leaves %q, want %q", got, want)
	}
}

// left is changed, without the copies that passwd(5)'s programs make.
func (c *chroot) left(t *testing.T, before map[string]string) (names []string) {
	t.Helper()
	return slices.DeleteFunc(changed(before, c.snapshot(t)), func(name string) bool {
		return strings.HasPrefix(name, "~etc/") && strings.HasSuffix(name, "-") || strings.HasPrefix(name, "+etc/") && strings.HasSuffix(name, "-")
	})
}

// installed looks at what is there after the first installation.
func (c *chroot) installed(t *testing.T) {
	t.Helper()
	if got := c.run(t, "cmtpd", "--version"); got != "cmtpd version "+version.Number+"\n" {
		t.Errorf("cmtpd --version says %q", got)
	}
	if got := c.run(t, "shorebird", "version"); !strings.Contains(got, version.Number) {
		t.Errorf("shorebird version says %q", got)
	}
	if got := c.run(t, "stat", "-c", "%U:%G %a", "/var/lib/cmtpd", "/etc/cmtpd", "/etc/cmtpd/cmtpd.toml"); got != "cmtpd:cmtpd 700\nroot:root 755\nroot:root 644\n" {
		t.Errorf("owners and modes are\n%s", got)
	}
	if got := strings.Split(strings.TrimSpace(c.run(t, "getent", "passwd", "cmtpd")), ":"); len(got) != 7 || got[5] != "/var/lib/cmtpd" || got[6] != "/usr/sbin/nologin" {
		t.Errorf("the user is %q", got)
	}
	if got := c.run(t, "dpkg-query", "-W", "-f", "${Conffiles}", "cmtpd"); !strings.HasPrefix(strings.TrimSpace(got), "/etc/cmtpd/cmtpd.toml ") {
		t.Errorf("the conffiles are %q", got)
	}
	if said, err := c.try("cmtpd", "serve"); err == nil || err.(*exec.ExitError).ExitCode() != 78 || !strings.Contains(said, "cmtpd init") {
		t.Errorf("without a configuration cmtpd serve ends with %v:\n%s", err, said)
	}
	if page := run(t, "sh", "-c", "gzip -dc "+c.path("usr/share/man/man8/cmtpd-user-add.8.gz")+" | mandoc -T utf8 | col -b"); !strings.Contains(page, "cmtpd user add ADDRESS") {
		t.Errorf("the manual page is\n%s", page)
	}
	if said := c.run(t, "dpkg", "--verify", "cmtpd", "shorebird"); said != "" {
		t.Errorf("dpkg --verify says:\n%s", said)
	}
}

// links returns what is enabled of cmtpd's units.
func (c *chroot) links(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob(c.path("etc/systemd/system/*.wants/cmtpd.*"))
	check(t, err)
	return links
}

func (c *chroot) noLinks(t *testing.T) {
	t.Helper()
	if links := c.links(t); len(links) > 0 {
		t.Errorf("enabled are %q", links)
	}
}
