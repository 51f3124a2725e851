package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/version"
)

const source = "../.."

// release runs the release program of the source in root, and returns the names of what it says that it made.
func release(t *testing.T, root, out string, args ...string) (names []string) {
	t.Helper()
	c := exec.Command("go", append([]string{"run", "./cmd/release", "-out", out}, args...)...)
	c.Dir = root
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	var failed bytes.Buffer
	c.Stderr = &failed
	made, err := c.Output()
	if err != nil {
		t.Fatalf("release: %v\n%s", err, failed.String())
	}
	for line := range strings.Lines(string(made)) {
		names = append(names, filepath.Base(strings.TrimSpace(line)))
	}
	return names
}

// elsewhere copies the source to another directory, with other modes and times than here, and without the repository.
func elsewhere(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "another", "place")
	for _, name := range []string{"cmd", "configs", "docs", "internal"} {
		check(t, os.CopyFS(filepath.Join(root, name), os.DirFS(filepath.Join(source, name))))
	}
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", "README.md"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(root, name), b, 0o600))
	}
	return root
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The same source makes the same bytes, wherever it lies; and what it makes is what was promised.
func TestRelease(t *testing.T) {
	cmtptest.Need(t, "dpkg-deb", "sha256sum")
	debian, missing := newChroot(t)
	out, again := t.TempDir(), t.TempDir()
	made := release(t, source, out)
	want := []string{"SHA256SUMS"}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, program := range []string{"cmtpd", "shorebird"} {
			want = append(want, program+"_"+version.Number+"_"+arch+".deb", program+"-"+version.Number+"-linux-"+arch+".cdx.json")
		}
		want = append(want, "cmtpd-"+version.Number+"-linux-"+arch+".tar.gz")
	}
	slices.Sort(made)
	slices.Sort(want)
	if !slices.Equal(made, want) {
		t.Fatalf("it made\n%q, want\n%q", made, want)
	}
	if left, err := filepath.Glob(filepath.Join(out, ".*")); err != nil || len(left) > 0 {
		t.Errorf("it left %q, %v", left, err)
	}
	release(t, elsewhere(t), again)
	for _, name := range made {
		a, err := os.ReadFile(filepath.Join(out, name))
		check(t, err)
		b, err := os.ReadFile(filepath.Join(again, name))
		check(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s is another one when it is built elsewhere", name)
		}
	}
	c := exec.Command("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	c.Dir = out
	if text, err := c.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, text)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			checkDeb(t, out, arch)
			checkArchive(t, out, arch)
			for _, program := range []string{"cmtpd", "shorebird"} {
				checkList(t, out, program, arch)
			}
		})
	}
	t.Run("chroot", func(t *testing.T) {
		if missing != "" {
			cmtptest.LeaveOut(t, missing)
		}
		debian.live(t, out)
	})
}

// The configuration that the package brings says that there is none, and stays the same for ever: dpkg asks about a
// configuration, and holds an unattended upgrade up, when both the administrator and the package have changed it.
func TestConffile(t *testing.T) {
	b, err := os.ReadFile(source + "/configs/debian/cmtpd.toml")
	check(t, err)
	if sum := fmt.Sprintf("%x", sha256.Sum256(b)); sum != "700b6e67eaefc8294b16d779401f73d42113cd0788089c30e1a2aca8f9b37d68" {
		t.Errorf("configs/debian/cmtpd.toml was changed (%s): every administrator would be asked about it", sum)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			t.Errorf("%q is a setting", line)
		}
	}
}

// checkDeb looks at the package of cmtpd.
func checkDeb(t *testing.T, out, arch string) {
	deb := filepath.Join(out, "cmtpd_"+version.Number+"_"+arch+".deb")
	if got := run(t, "dpkg-deb", "-f", deb, "Package", "Version", "Architecture"); got != "Package: cmtpd\nVersion: "+version.Number+"\nArchitecture: "+arch+"\n" {
		t.Errorf("the package is\n%s", got)
	}
	if got := run(t, "dpkg-deb", "-I", deb, "conffiles"); got != "/etc/cmtpd/cmtpd.toml\n" {
		t.Errorf("conffiles are %q", got)
	}
	dir := t.TempDir()
	run(t, "dpkg-deb", "-x", deb, dir)
	checkProgram(t, filepath.Join(dir, "usr/bin/cmtpd"), arch)
	for _, name := range []string{
		"lib/systemd/system/cmtpd.service", "lib/systemd/system/cmtpd.socket", "usr/share/man/man8/cmtpd-user-add.8.gz",
		"usr/share/man/man5/cmtpd.toml.5.gz", "usr/share/bash-completion/completions/cmtpd", "usr/share/zsh/vendor-completions/_cmtpd",
		"usr/share/fish/vendor_completions.d/cmtpd.fish", "usr/share/doc/cmtpd/copyright", "usr/share/doc/cmtpd/cmtpd.cdx.json",
		"usr/share/doc/cmtpd/examples/cmtpd.toml", "usr/share/doc/cmtpd/examples/postfix/master.cf", "usr/share/doc/cmtpd/docs/operations.md",
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		check(t, err)
		if info.Mode() != 0o644 || info.Size() == 0 || info.ModTime().Unix() != 1700000000 {
			t.Errorf("%s: %v, %d bytes, %v", name, info.Mode(), info.Size(), info.ModTime())
		}
	}
	notices, err := os.ReadFile(filepath.Join(dir, "usr/share/doc/cmtpd/copyright"))
	check(t, err)
	for _, w := range []string{"The cmtpd authors", "The Go standard library (" + runtime.Version(), "github.com/spf13/cobra v", "Apache License", "google.golang.org/protobuf v"} {
		if !strings.Contains(string(notices), w) {
			t.Errorf("the copyright does not say %q", w)
		}
	}
}

// checkProgram: a program is for arch, and needs no library of the system.
func checkProgram(t *testing.T, path, arch string) {
	t.Helper()
	f, err := elf.Open(path)
	check(t, err)
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != want {
		t.Errorf("%s is for %v", path, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: %v", path, p.Type)
		}
	}
}

// checkArchive: everything in the archive lies in one directory, in order, and belongs to nobody.
func checkArchive(t *testing.T, out, arch string) {
	top := "cmtpd-" + version.Number + "-linux-" + arch
	f, err := os.Open(filepath.Join(out, top+".tar.gz"))
	check(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	check(t, err)
	if z.Name != "" || !z.ModTime.IsZero() {
		t.Errorf("the archive has the name %q and the time %v", z.Name, z.ModTime)
	}
	modes := make(map[string]int64)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		name, ok := strings.CutPrefix(h.Name, top+"/")
		if !ok || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 1700000000 {
			t.Errorf("in the archive: %+v", h)
		}
		modes[name] = h.Mode
		if strings.HasPrefix(name, "bin/") && h.Typeflag == tar.TypeReg {
			path := filepath.Join(t.TempDir(), "program")
			b, err := io.ReadAll(r)
			check(t, err)
			check(t, os.WriteFile(path, b, 0o600))
			checkProgram(t, path, arch)
		}
	}
	for name, mode := range map[string]int64{
		"bin/cmtpd": 0o755, "bin/shorebird": 0o755, "LICENSE": 0o644, "README.md": 0o644, "man/man1/shorebird.1.gz": 0o644, "man/man5/cmtpd.toml.5.gz": 0o644,
		"configs/cmtpd.toml": 0o644, "configs/cmtpd.service": 0o644, "docs/operations.md": 0o644, "completions/cmtpd.zsh": 0o644, "doc/shorebird/copyright": 0o644,
	} {
		if modes[name] != mode {
			t.Errorf("in the archive %s has the mode %o", name, modes[name])
		}
	}
}

// checkList: what a program is said to be made of is what is in it.
func checkList(t *testing.T, out, program, arch string) {
	text, err := os.ReadFile(filepath.Join(out, program+"-"+version.Number+"-linux-"+arch+".cdx.json"))
	check(t, err)
	var list struct {
		BOMFormat, SerialNumber string
		Metadata                struct {
			Timestamp string
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	check(t, json.Unmarshal(text, &list))
	about := list.Metadata
	if list.BOMFormat != "CycloneDX" || list.SerialNumber != "" || about.Timestamp != "" || about.Component.Name != "cmtpd" || about.Component.Version != version.Number {
		t.Errorf("the list of %s: %.500s", program, text)
	}
	var got, want []string
	for _, c := range list.Components {
		got = append(got, c.Name+" "+c.Version)
	}
	dir := t.TempDir()
	run(t, "dpkg-deb", "-x", filepath.Join(out, program+"_"+version.Number+"_"+arch+".deb"), dir)
	info, err := buildinfo.ReadFile(filepath.Join(dir, "usr/bin", program))
	check(t, err)
	want = append(want, "std "+info.GoVersion)
	for _, m := range info.Deps {
		want = append(want, m.Path+" "+m.Version)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the list of %s has\n%q, the program\n%q", program, got, want)
	}
	if hasVCS := slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return strings.HasPrefix(s.Key, "vcs") }); hasVCS {
		t.Errorf("%s knows of the repository", program)
	}
}
