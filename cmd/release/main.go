// Command release makes what is given to others: for each architecture Debian packages of cmtpd and of shorebird, an
// archive of both, and a list of what each program is made of (SBOM); then the check sums of them all.
//
// The same source, with the same release of Go, makes the same bytes, wherever it lies.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"cmtpd/internal/version"
)

func main() {
	r := release{root: "."}
	archs := ""
	flag.StringVar(&r.out, "out", "dist", "the directory `DIR` for what is made")
	flag.StringVar(&r.version, "version", version.Number, "the `VERSION` that packages and archives are given")
	flag.StringVar(&archs, "arch", "amd64,arm64", "the `ARCHITECTURES`, with commas")
	flag.BoolVar(&r.debOnly, "deb", false, "make the Debian packages alone")
	flag.Parse()
	r.archs = strings.Split(archs, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	made, err := r.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
	for _, name := range made {
		fmt.Println(filepath.Join(r.out, name))
	}
}

var programs = []string{"cmtpd", "shorebird"}

// A release is what is to be made, and where.
type release struct {
	root    string // of the source
	out     string
	version string
	archs   []string
	debOnly bool
	epoch   time.Time // of everything that has a time
}

// run makes everything, and returns the names of the files in out.
func (r *release) run(ctx context.Context) (made []string, err error) {
	if r.out, err = filepath.Abs(r.out); err != nil {
		return nil, err
	}
	if r.epoch, err = r.sourceDate(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return nil, err
	}
	stage, err := os.MkdirTemp(r.out, ".stage-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	for _, arch := range r.archs {
		if err := r.build(ctx, arch, filepath.Join(stage, arch, "bin")); err != nil {
			return nil, err
		}
	}
	manual, err := r.manual(ctx, stage)
	if err != nil {
		return nil, err
	}
	names := make([][]string, len(r.archs))
	g, ctx := errgroup.WithContext(ctx)
	for i, arch := range r.archs {
		g.Go(func() (err error) {
			if names[i], err = r.one(ctx, arch, filepath.Join(stage, arch), manual); err != nil {
				return fmt.Errorf("for %s: %w", arch, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	made = slices.Concat(names...)
	if r.debOnly {
		return made, nil
	}
	return append(made, sumsFile), r.sums(made)
}

// one makes everything for one architecture of which the programs are there.
func (r *release) one(ctx context.Context, arch, stage, manual string) (made []string, err error) {
	if err := r.documents(ctx, stage, manual); err != nil {
		return nil, err
	}
	lists, err := r.contents(ctx, arch, stage)
	if err != nil {
		return nil, err
	}
	if err := r.settle(stage); err != nil {
		return nil, err
	}
	for _, program := range programs {
		name := fmt.Sprintf("%s_%s_%s.deb", program, r.version, arch)
		if err := r.deb(ctx, program, arch, stage, name); err != nil {
			return nil, err
		}
		made = append(made, name)
	}
	if r.debOnly {
		return made, nil
	}
	name := fmt.Sprintf("cmtpd-%s-linux-%s.tar.gz", r.version, arch)
	return append(append(made, lists...), name), r.archive(arch, stage, name)
}

// sourceDate returns the time of the source: SOURCE_DATE_EPOCH, or else the last commit's.
func (r *release) sourceDate(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := r.command(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("the time of the last commit is not known (%w): set SOURCE_DATE_EPOCH, in seconds", err)
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is not a number of seconds: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// command returns a command that runs in the root, with an environment that leaves nothing of what is made to chance.
func (r *release) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = r.root
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0", "LC_ALL=C",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.epoch.Unix()), "VERSION="+r.version)
	return c
}

// do runs a command, and returns what it wrote if it failed.
func do(c *exec.Cmd) error {
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}
