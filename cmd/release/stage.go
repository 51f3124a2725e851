package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// build compiles the programs for arch into dir. Nothing of the place or of the repository gets into them.
func (r *release) build(ctx context.Context, arch, dir string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	c := r.command(ctx, "go", args...)
	c.Env = append(c.Env, "GOARCH="+arch)
	return do(c)
}

// manual lets the programs write their pages and completions into a directory of stage, which it returns. They have to
// run here, so they are built for this architecture, if they are not yet.
func (r *release) manual(ctx context.Context, stage string) (string, error) {
	bin := filepath.Join(stage, runtime.GOARCH, "bin")
	if !slices.Contains(r.archs, runtime.GOARCH) {
		if err := r.build(ctx, runtime.GOARCH, bin); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(stage, "manual")
	man := filepath.Join(dir, "man")
	if err := do(r.command(ctx, filepath.Join(bin, "cmtpd"), "man", man, "configs/cmtpd.toml")); err != nil {
		return "", err
	}
	if err := do(r.command(ctx, filepath.Join(bin, "shorebird"), "man", man)); err != nil {
		return "", err
	}
	completions := filepath.Join(dir, "completions")
	if err := os.Mkdir(completions, 0o755); err != nil {
		return "", err
	}
	for _, program := range programs {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			out, err := r.command(ctx, filepath.Join(bin, program), "completion", shell).Output()
			if err != nil {
				return "", fmt.Errorf("%s completion %s: %w", program, shell, err)
			}
			if err := os.WriteFile(filepath.Join(completions, program+"."+shell), out, 0o644); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// documents puts everything but the programs into stage.
func (r *release) documents(ctx context.Context, stage, manual string) error {
	for _, dir := range []struct{ from, to string }{
		{filepath.Join(r.root, "configs"), "configs"}, {filepath.Join(r.root, "docs"), "docs"},
		{filepath.Join(r.root, "configs"), "examples"},
		{filepath.Join(manual, "completions"), "completions"},
	} {
		if err := os.CopyFS(filepath.Join(stage, dir.to), os.DirFS(dir.from)); err != nil {
			return err
		}
	}
	// The package has the units in their place. Go files are the program's, not an administrator's.
	for _, none := range []string{"examples/*.service", "examples/*.socket", "examples/*.go", "examples/debian", "configs/*.go"} {
		found, err := filepath.Glob(filepath.Join(stage, none))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if err := zipPages(filepath.Join(manual, "man"), filepath.Join(stage, "man")); err != nil {
		return err
	}
	for _, program := range programs {
		doc := filepath.Join(stage, "doc", program)
		if err := os.MkdirAll(doc, 0o755); err != nil {
			return err
		}
		copyright, err := r.copyright(ctx, filepath.Join(stage, "bin", program))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(doc, "copyright"), copyright, 0o644); err != nil {
			return err
		}
		changes, err := zipped(r.changelog(program))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(doc, "changelog.gz"), changes, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// zipPages copies the manual, with each page compressed.
func zipPages(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(to, inside), 0o755)
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if page, err = zipped(page); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, inside+".gz"), page, 0o644)
	})
}

// changelog returns what Debian asks every package for. What has changed is told in the documents.
func (r *release) changelog(program string) []byte {
	return fmt.Appendf(nil, "%s (%s) stable; urgency=medium\n\n  * See Upgrading in docs/operations.md, and the history of the source.\n\n -- %s  %s\n",
		program, r.version, maintainer, r.epoch.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

const maintainer = "The cmtpd maintainers <maintainers@cmtpd.invalid>"

// copyright returns the licence of the program and those of everything that is linked into it.
func (r *release) copyright(ctx context.Context, program string) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	args := []string{"mod", "download", "-json"}
	for _, m := range info.Deps {
		args = append(args, m.Path+"@"+m.Version)
	}
	out, err := r.command(ctx, "go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("finding the licences of modules: %w", err)
	}
	goroot, err := r.command(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("cmtpd and shorebird:\n\n")
	if err := licences(&b, r.root); err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "\nWhat follows are the licences of what is linked into the program.\n\n%s\nThe Go standard library (%s):\n\n", rule, info.GoVersion)
	if err := licences(&b, strings.TrimSpace(string(goroot))); err != nil {
		return nil, err
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n%s\n%s %s:\n\n", rule, m.Path, m.Version)
		if err := licences(&b, m.Dir); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

const rule = "----------------------------------------------------------------------"

// licences writes the licences that lie in dir. A program must not be given away without them.
func licences(b *bytes.Buffer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		name, _, _ := strings.Cut(strings.ToUpper(e.Name()), ".")
		name, _, _ = strings.Cut(name, "-")
		if e.IsDir() || !slices.Contains([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS"}, name) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if found {
			b.WriteString("\n")
		}
		found = true
		b.Write(bytes.TrimRight(text, "\n"))
		b.WriteString("\n")
	}
	if !found {
		return fmt.Errorf("no licence lies in %s", dir)
	}
	return nil
}

// settle gives everything in stage the modes and the time that it will have.
func (r *release) settle(stage string) error {
	return filepath.WalkDir(stage, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() || filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o755
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return os.Chtimes(path, r.epoch, r.epoch)
	})
}

// tool returns a command of a program that internal/tools pins.
func (r *release) tool(ctx context.Context, name string, args ...string) *exec.Cmd {
	return r.command(ctx, "go", append([]string{"tool", "-modfile=internal/tools/go.mod", name}, args...)...)
}
