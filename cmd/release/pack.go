package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// zipped returns text as "gzip -n -9" makes it: without a name and a time.
func zipped(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// contents writes down what the programs are made of, in CycloneDX's JSON, and returns the names of the lists in out. A
// copy goes to the program's documents.
func (r *release) contents(ctx context.Context, arch, stage string) (made []string, err error) {
	for _, program := range programs {
		c := r.tool(ctx, "cyclonedx-gomod", "bin", "-json", "-noserial", "-notimestamp", "-std", "-version", r.version, filepath.Join(stage, "bin", program))
		out, err := c.Output()
		if err != nil {
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				err = fmt.Errorf("%w\n%s", err, failed.Stderr)
			}
			return nil, fmt.Errorf("listing what %s is made of: %w", program, err)
		}
		if out, err = withoutTool(out); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(stage, "doc", program, program+".cdx.json"), out, 0o644); err != nil {
			return nil, err
		}
		if r.debOnly {
			continue
		}
		name := fmt.Sprintf("%s-%s-linux-%s.cdx.json", program, r.version, arch)
		if err := os.WriteFile(filepath.Join(r.out, name), out, 0o644); err != nil {
			return nil, err
		}
		made = append(made, name)
	}
	return made, nil
}

// withoutTool takes the check sums of the tool out of its list: they depend on where it was built.
func withoutTool(list []byte) ([]byte, error) {
	var bom map[string]any
	if err := json.Unmarshal(list, &bom); err != nil {
		return nil, err
	}
	about, _ := bom["metadata"].(map[string]any)
	tools, _ := about["tools"].([]any)
	for _, t := range tools {
		if tool, ok := t.(map[string]any); ok {
			delete(tool, "hashes")
		}
	}
	out, err := json.MarshalIndent(bom, "", "  ")
	return append(out, '\n'), err
}

// deb makes the Debian package of a program.
func (r *release) deb(ctx context.Context, program, arch, stage, name string) error {
	c := r.tool(ctx, "nfpm", "package", "--config", "configs/debian/"+program+".yaml", "--packager", "deb", "--target", filepath.Join(r.out, name))
	c.Env = append(c.Env, "ARCH="+arch, "STAGE="+stage)
	return do(c)
}

// archive makes the archive of both programs, and of all that goes with them.
func (r *release) archive(arch, stage, name string) (err error) {
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	top := strings.TrimSuffix(name, ".tar.gz")
	for _, dir := range []string{"bin", "completions", "configs", "doc", "docs", "man"} {
		if err := r.add(t, stage, dir, top); err != nil {
			return err
		}
	}
	for _, file := range []string{"LICENSE", "README.md"} {
		if err := r.add(t, r.root, file, top); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// add adds a file or a directory, in the order of names, with nothing of who made it.
func (r *release) add(t *tar.Writer, base, name, top string) error {
	return filepath.WalkDir(filepath.Join(base, name), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: top + "/" + filepath.ToSlash(inside), ModTime: r.epoch, Mode: 0o644, Size: info.Size(), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if d.IsDir() {
			h.Name, h.Typeflag, h.Mode, h.Size = h.Name+"/", tar.TypeDir, 0o755, 0
		} else if strings.HasPrefix(inside, "bin/") {
			h.Mode = 0o755
		}
		if err := t.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
}

const sumsFile = "SHA256SUMS"

// sums writes the check sums of what was made, as sha256sum does.
func (r *release) sums(made []string) error {
	var b bytes.Buffer
	for _, name := range made {
		text, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(text), name)
	}
	return os.WriteFile(filepath.Join(r.out, sumsFile), b.Bytes(), 0o644)
}
