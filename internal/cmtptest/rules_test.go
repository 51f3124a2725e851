package cmtptest_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What docs/HACKING.md says of the code, as far as it can be counted. A test may take as many lines as its table has.
const (
	mostLines    = 600 // of a file
	mostOfAFunc  = 60  // of a function, outside of tests
	fewestSource = 500 // files that have to be found
)

// wellKnown are methods of which everybody knows what they do.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "String": true, "Write": true, "Read": true, "ReadAt": true, "WriteTo": true, "Close": true}

// breaches returns how a file's source breaks the rules.
func breaches(name string, source []byte) (found []string, err error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(source, []byte("\n")); n > mostLines {
		found = append(found, "is too long")
	}
	if strings.HasSuffix(name, "_test.go") {
		return found, nil
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if set.Position(d.End()).Line-set.Position(d.Pos()).Line+1 > mostOfAFunc {
				found = append(found, d.Name.Name+" is too long")
			}
			if d.Name.IsExported() && d.Doc == nil && isExportedReceiver(d.Recv) && (d.Recv == nil || !wellKnown[d.Name.Name]) {
				found = append(found, d.Name.Name+" has no comment")
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				found = append(found, bare(d, s)...)
			}
		}
	}
	return found, nil
}

// isExportedReceiver reports whether others can call a function with that receiver, if it has one.
func isExportedReceiver(list *ast.FieldList) bool {
	if list == nil {
		return true
	}
	t := list.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// bare returns which exported names of a declaration have no comment, nor stand in a group that has one.
func bare(d *ast.GenDecl, s ast.Spec) (found []string) {
	if d.Doc != nil {
		return nil
	}
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil {
			found = append(found, s.Name.Name+" has no comment")
		}
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() && s.Doc == nil && s.Comment == nil {
				found = append(found, n.Name+" has no comment")
			}
		}
	}
	return found
}

// Files and functions have the length that docs/HACKING.md gives them, and what others can use has a comment.
func TestRules(t *testing.T) {
	n, root := 0, filepath.Join("..", "..")
	for _, top := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(p string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir() || filepath.Ext(p) != ".go":
				return nil
			}
			source, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n++
			all, err := breaches(p, source)
			for _, text := range all {
				t.Errorf("%s: %s", p, text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < fewestSource {
		t.Errorf("only %d files were found", n)
	}
}

// The rules find what they are for, and nothing at the bound.
func TestRules_Found(t *testing.T) {
	lines := func(n int) string { return strings.Repeat("\n", n) }
	for _, tt := range []struct{ name, source, want string }{
		{"a.go", "package a" + lines(600), ""},
		{"a.go", "package a" + lines(601), "is too long"},
		{"a_test.go", "package a" + lines(601), "is too long"},
		{"a.go", "package a\n// A\nfunc A() {" + lines(59) + "}\n", ""},
		{"a.go", "package a\n// A\nfunc A() {" + lines(60) + "}\n", "A is too long"},
		{"a_test.go", "package a\nfunc A() {" + lines(60) + "}\n", ""},
		{"a.go", "package a\nfunc A() {}\n", "A has no comment"},
		{"a.go", "package a\nfunc (b *B[C]) A() {}\n", "A has no comment"},
		{"a.go", "package a\nfunc (b b) A() {}\nfunc (b B) Error() string { return `` }\nfunc a() {}\n", ""},
		{"a.go", "package a\nfunc Error() {}\n", "Error has no comment"},
		{"a.go", "package a\ntype A int\n", "A has no comment"},
		{"a.go", "package a\nconst (\n\tA = 1\n\tb = 2\n)\n", "A has no comment"},
		{"a.go", "package a\n// All.\nconst (\n\tA = 1\n)\n\nvar (\n\tB = 1 // b\n\t// C\n\tC = 1\n)\n", ""},
	} {
		found, err := breaches(tt.name, []byte(tt.source))
		if got := strings.Join(found, "; "); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q, in\n%s", tt.name, got, err, tt.want, tt.source)
		}
	}
}
