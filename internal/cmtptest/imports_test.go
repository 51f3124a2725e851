package cmtptest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "cmtpd"

// order lists the packages under internal/ so that each imports only what stands
// before it. A new package goes behind the last that it imports, and before the
// first that will import it. What only tests import stands with what it tests.
var order = []string{
	"version", "manual", "nearest", "address", "crypt", "oprf", "invite", "netbuf", "sockfilter", "cmtp", "provenance", "xzibit",
	"recovery", "durable", "durable/durabletest", "keyfile", "limit", "guess", "letter", "terminal", "kernelring", "config",
	"discovery", "discovery/dnstest", "account", "trust", "spool", "mailbox", "queue", "channel", "client", "client/clienttest",
	"federation", "session", "relay", "front", "control", "datadir", "datadir/datadirtest", "identity", "backup", "admin",
	"checkup", "setup", "cache", "shorebird", "status", "metrics", "service", "daemon", "cmtptest",
}

// A file is a parsed file of the module and the directory that it is in, from the
// module's root.
type file struct {
	*ast.File
	dir string
}

// isTestOnly reports whether no program may contain the package in dir.
func isTestOnly(dir string) bool { return strings.HasSuffix(dir, "test") }

// imports returns what f imports, as written.
func (f file) imports() (paths []string) {
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser took it
		}
		paths = append(paths, p)
	}
	return paths
}

// problems returns what is wrong with a file that is no test.
func (f file) problems() (found []string) {
	for _, p := range f.imports() {
		if text := f.badImport(p); text != "" {
			found = append(found, text)
		}
	}
	ast.Inspect(f.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				found = append(found, "has an init function: what happens should be seen where it is called")
			}
		case *ast.CallExpr:
			if text := f.badCall(n); text != "" {
				found = append(found, text)
			}
		}
		return true
	})
	return found
}

// badImport says what is wrong with importing p.
func (f file) badImport(p string) string {
	own, isOwn := strings.CutPrefix(p, module+"/")
	switch {
	case p == "testing" && !isTestOnly(f.dir):
		return "imports testing outside of tests"
	case strings.HasPrefix(p, "github.com/ncruces/") && f.dir != "internal/cache":
		return "imports SQLite: only package cache does"
	case !isOwn:
		return ""
	case own == "internal/cache" && f.dir != "internal/shorebird" && f.dir != "cmd/bench",
		own == "internal/shorebird" && f.dir != "cmd/shorebird":
		return fmt.Sprintf("imports %s, which is the client's, with SQLite", own)
	case isTestOnly(own) && !isTestOnly(f.dir):
		return fmt.Sprintf("imports %s, which is for tests", own)
	case strings.HasPrefix(own, "cmd/"):
		return fmt.Sprintf("imports the command %s", own)
	case strings.HasPrefix(f.dir, "cmd/"):
		return "" // commands stand above all
	}
	place, other := slices.Index(order, strings.TrimPrefix(f.dir, "internal/")), slices.Index(order, strings.TrimPrefix(own, "internal/"))
	if other >= place {
		return fmt.Sprintf("imports %s, which does not stand above it in the order of packages", own)
	}
	return ""
}

// badCall says what is wrong with a call. It knows no types: that a Sync is a
// file's is taken from what the source file imports.
func (f file) badCall(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	recv, _ := sel.X.(*ast.Ident)
	pkg := ""
	if recv != nil {
		pkg = recv.Name
	}
	mayFlush := f.dir == "internal/durable" || f.dir == "cmd/bench" // which measures what it costs
	switch name := sel.Sel.Name; {
	case (pkg == "unix" || pkg == "syscall") && slices.Contains([]string{"Fsync", "Fdatasync", "Syncfs", "Sync", "SyncFileRange"}, name) && !mayFlush,
		name == "Sync" && len(call.Args) == 0 && slices.Contains(f.imports(), "os") && !mayFlush && !isTestOnly(f.dir):
		return "flushes a file: only package durable does"
	case strings.HasPrefix(f.dir, "cmd/") || isTestOnly(f.dir):
		return ""
	case pkg == "os" && name == "Exit", pkg == "log" && (strings.HasPrefix(name, "Fatal") || strings.HasPrefix(name, "Panic")):
		return fmt.Sprintf("calls %s.%s: a library returns errors", pkg, name)
	}
	return ""
}

// sources parses every file of the module that is no test, for whatever system.
func sources(t *testing.T) (files map[string]file) {
	t.Helper()
	files = make(map[string]file)
	root := filepath.Join("..", "..")
	for _, top := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(p string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir() || filepath.Ext(p) != ".go" || strings.HasSuffix(p, "_test.go"):
				return nil
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			rel = filepath.ToSlash(rel)
			files[rel] = file{parsed, path.Dir(rel)}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// The packages build on one another in one direction, and each keeps to its own.
func TestArchitecture(t *testing.T) {
	files := sources(t)
	if len(files) < 50 {
		t.Fatalf("only %d files were found", len(files))
	}
	seen := make(map[string]bool)
	for name, f := range files {
		if own, ok := strings.CutPrefix(f.dir, "internal/"); ok && !seen[own] {
			seen[own] = true
			if !slices.Contains(order, own) {
				t.Errorf("package %s has no place: put it into the list in this file, behind the last package that it imports", f.dir)
			}
		}
		for _, text := range f.problems() {
			t.Errorf("%s %s", name, text)
		}
	}
	for _, own := range order {
		if !seen[own] {
			t.Errorf("internal/%s is in the list in this file, and is not there", own)
		}
	}
}

// docs/HACKING.md has the packages in the same order, and says of each which lines belong there.
func TestArchitecture_Documented(t *testing.T) {
	text, err := os.ReadFile("../../docs/HACKING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "A package imports only packages that stand before it:")
	list, rest, _ := strings.Cut(rest, ";")
	var want []string
	for _, own := range order {
		if own != "cmtptest" && !strings.Contains(own, "/") {
			want = append(want, own)
		}
	}
	if got := strings.Fields(strings.ReplaceAll(list, ",", " ")); !slices.Equal(got, want) {
		t.Errorf("it has %q, want %q", got, want)
	}
	_, rest, _ = strings.Cut(rest, "## Where does a line of code belong?")
	table, _, _ := strings.Cut(rest, "\n## ")
	for _, own := range order {
		if !strings.Contains(table, "`"+path.Base(own)+"`") {
			t.Errorf("the table does not say what belongs into %s", own)
		}
	}
}

// The rules find what they are for.
func TestArchitecture_Rules(t *testing.T) {
	for _, tt := range []struct{ dir, source, want string }{
		{"internal/crypt", `import "cmtpd/internal/session"`, "does not stand above"},
		{"internal/session", `import "cmtpd/internal/session"`, "does not stand above"},
		{"internal/session", `import "cmtpd/internal/crypt"`, ""},
		{"internal/session", `import "cmtpd/internal/cmtptest"`, "for tests"},
		{"internal/spool", `import "cmtpd/internal/durable/durabletest"`, "for tests"},
		{"internal/new", `import "cmtpd/internal/crypt"`, "does not stand above"},
		{"internal/daemon", `import "cmtpd/cmd/cmtpd"`, "imports the command"},
		{"cmd/cmtpd", `import "cmtpd/internal/daemon"`, ""},
		{"cmd/cmtpd", `import "cmtpd/internal/cmtptest"`, "for tests"},
		{"internal/daemon", `import "cmtpd/internal/shorebird"`, "with SQLite"},
		{"cmd/cmtpd", `import "cmtpd/internal/cache"`, "with SQLite"},
		{"internal/shorebird", `import "cmtpd/internal/cache"`, ""},
		{"cmd/bench", `import "cmtpd/internal/cache"`, ""},
		{"cmd/shorebird", `import "cmtpd/internal/shorebird"`, ""},
		{"internal/spool", `import "github.com/ncruces/go-sqlite3"`, "only package cache"},
		{"internal/config", `import "testing"`, "imports testing"},
		{"internal/cmtptest", `import "testing"`, ""},
		{"internal/config", `func init() {}`, "init function"},
		{"internal/config", `type t int; func (t) init() {}`, ""},
		{"internal/config", `import "os"; func f() { os.Exit(1) }`, "os.Exit"},
		{"cmd/cmtpd", `import "os"; func f() { os.Exit(1) }`, ""},
		{"internal/config", `import "log"; func f() { log.Fatalf("x") }`, "log.Fatalf"},
		{"internal/config", `import "os"; func f(g *os.File) { g.Sync() }`, "flushes a file"},
		{"internal/spool", `import "cmtpd/internal/durable"; func f(g durable.File) { g.Sync() }`, ""},
		{"internal/durable", `import "os"; func f(g *os.File) { g.Sync() }`, ""},
		{"internal/spool", `import "golang.org/x/sys/unix"; func f() { unix.Fdatasync(1) }`, "flushes a file"},
		{"cmd/cmtpd", `import "syscall"; func f() { syscall.Fsync(1) }`, "flushes a file"},
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+tt.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(file{parsed, tt.dir}.problems(), "; ")
		if (found == "") != (tt.want == "") || !strings.Contains(found, tt.want) {
			t.Errorf("in %s, %s: found %q, want %q", tt.dir, tt.source, found, tt.want)
		}
	}
}
