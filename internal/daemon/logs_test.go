package daemon_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ofTheDaemon are the packages whose lines stand in the daemon's log.
var ofTheDaemon = []string{"account", "backup", "channel", "control", "daemon", "discovery", "federation", "front", "guess", "invite",
	"keyfile", "limit", "mailbox", "queue", "relay", "service", "session", "spool", "trust"}

// made are the calls whose text is made, not written there: where the parts of it are.
var made = map[string]func(*testing.T) []string{
	"../session/mail.go": func(t *testing.T) (texts []string) { // "message " and the outcome
		for outcome := range names(t, regexp.MustCompile(`(?m)^\t\w+ +Outcome = "([a-z]+)"`), "../session/observe.go") {
			texts = append(texts, "message "+outcome)
		}
		return texts
	},
	"../session/accounts.go": func(t *testing.T) (texts []string) { // chosen before they are logged
		for text := range names(t, regexp.MustCompile(`(?m)^\t+event :?= "([^"]+)"$`), "../session/accounts.go") {
			texts = append(texts, text)
		}
		return texts
	},
	"../session/suspect.go": nil, // the texts are its callers'
	"../session/told.go":    nil, // likewise
	"../front/tally.go":     nil, // those of newTally
	"../trust/store.go":     nil, // those of add in changes.go
}

// carriers are functions of ours that take the text of a line, and its place among their arguments.
var carriers = map[string]int{"add": 1, "newTally": 2, "suspect": 0, "note": 0, "tellOf": 0}

// Every line that the daemon can log has its row in docs/operations.md, and no row is of one that there
// is not.
func TestLogs_Documented(t *testing.T) {
	source := make(map[string]string) // text to file
	for _, dir := range ofTheDaemon {
		for _, file := range all(t, "../"+dir+"/*.go") {
			for _, text := range linesOf(t, file) {
				source[text] = file
			}
		}
	}
	if len(source) < 60 {
		t.Fatalf("only %d lines were found in the source", len(source))
	}
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Logs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	table := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(section, -1) {
		for _, text := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			table[text[1]] = true
		}
	}
	for text, file := range source {
		if !table[text] {
			t.Errorf("docs/operations.md has no line %q, of %s", text, filepath.Clean(file))
		}
	}
	for text := range table {
		if source[text] == "" {
			t.Errorf("docs/operations.md has the line %q, which there is not", text)
		}
	}
}

// linesOf returns the texts of all calls in a file that log.
func linesOf(t *testing.T, file string) (texts []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		place, logs := textOf(call)
		if !logs {
			return true
		}
		text, ok := call.Args[place].(*ast.BasicLit)
		if ok && text.Kind == token.STRING {
			s, err := strconv.Unquote(text.Value)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, s)
			return true
		}
		if !ok {
			parts, known := made[file]
			if !known {
				t.Errorf("%s logs a text that is made: write it there, so that it can be found", file)
			} else if parts != nil {
				texts = append(texts, parts(t)...)
			}
		}
		return true
	})
	return texts
}

// textOf returns where in its arguments a call that logs has its text.
func textOf(call *ast.CallExpr) (place int, logs bool) {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.Ident:
		name = f.Name
	case *ast.SelectorExpr:
		name = f.Sel.Name
		switch {
		case !isLog(f.X):
		case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name):
			return 0, true
		case name == "Log", name == "LogAttrs":
			return 2, true
		}
	}
	place, logs = carriers[name]
	return place, logs && len(call.Args) > place && (name != "add" || isLevel(call.Args[0])) && (name != "note" || len(call.Args) == 2 && isText(call.Args[0]))
}

// isLog reports whether x is a logger, by its name: log, Log, or log().
func isLog(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "log"
	case *ast.SelectorExpr:
		return x.Sel.Name == "log" || x.Sel.Name == "Log"
	case *ast.CallExpr:
		return isLog(x.Fun)
	}
	return false
}

// isText reports whether x is a text, or a variable with one, and no connection.
func isText(x ast.Expr) bool {
	if v, ok := x.(*ast.Ident); ok {
		return v.Name == "event"
	}
	_, ok := x.(*ast.BasicLit)
	return ok
}

func isLevel(x ast.Expr) bool {
	s, ok := x.(*ast.SelectorExpr)
	return ok && strings.HasPrefix(s.Sel.Name, "Level")
}
