package main_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	main "cmtpd/cmd/cmtpd"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	release "cmtpd/internal/version"
)

// TestDocuments holds README and the documents to what is there. Each block between fences is run by
// TestDocuments_Story, where <!-- run: NUMBER --> stands before it, or is at least read as what its language says,
// and each line of commands is one that exists. -v shows which block had which.
func TestDocuments(t *testing.T) {
	t.Parallel()
	program := cmtptest.CommandLine{New: main.Command}
	for _, d := range cmtptest.ReadDocuments(t) {
		t.Run(filepath.Base(d.Path), func(t *testing.T) {
			t.Parallel()
			found, n := program.Problems(d)
			t.Logf("%d calls of cmtpd were read", n)
			for _, b := range d.Blocks {
				how, err := readBlock(t, b)
				t.Logf("%s:%d: %s", d.Path, b.Line, how)
				if err != nil {
					t.Errorf("%s:%d: %v", d.Path, b.Line, err)
				}
			}
			for _, text := range slices.Concat(found, badLinks(t, d), badSpans(t, d)) {
				t.Error(text)
			}
		})
	}
}

// readBlock reads a block as what it is, and says how.
func readBlock(t *testing.T, b cmtptest.Block) (how string, err error) {
	text := strings.Join(b.Lines, "\n") + "\n"
	switch b.Language {
	case "":
		for i, line := range b.Lines {
			l, err := cmtptest.ParseLine(line)
			if err == nil && len(l.Words) > 0 {
				err = readCommand(t, l)
			}
			if err != nil {
				return "commands", fmt.Errorf("line %d: %w", i+1, err)
			}
		}
		if b.Marks["run"] != "" {
			return "commands, run as step " + b.Marks["run"] + " of the story", nil
		}
		return "commands, read", nil
	case "toml":
		if file := b.Marks["file"]; file != "" {
			return "a file, written by step " + b.Marks["run"] + " of the story", nil
		}
		return "a configuration, loaded", loadFragment(t, text)
	case "nft":
		return "nft -c", accepts(t, text, "nft", "-c", "-f")
	case "unbound":
		return "unbound-checkconf", accepts(t, text, "unbound-checkconf")
	case "ini":
		return "a unit, systemd-analyze verify", verifiesUnit(t, b)
	}
	return "nothing", fmt.Errorf("nobody knows how to check a block of %q", b.Language)
}

// minimal is what a fragment of a configuration needs beside itself.
const minimal = "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\ndata_dir = \"data\"\n"

// loadFragment loads a block of TOML, completed where it says nothing of the names.
func loadFragment(t *testing.T, text string) error {
	if !strings.Contains(text, "hostname") {
		text = minimal + text
	}
	path := filepath.Join(t.TempDir(), "cmtpd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := config.Load(path)
	return err
}

// accepts runs a program that checks the file that is its last argument.
func accepts(t *testing.T, text, program string, args ...string) error {
	cmtptest.Need(t, program)
	path := filepath.Join(t.TempDir(), "block")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(t.Context(), program, append(args, path)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// verifiesUnit has systemd read a unit, whose path is in its first line, beside ours.
func verifiesUnit(t *testing.T, b cmtptest.Block) error {
	cmtptest.Need(t, "systemd-analyze")
	dir := t.TempDir()
	name := filepath.Base(strings.TrimPrefix(b.Lines[0], "# "))
	service, err := os.ReadFile(filepath.Join(unitDir, "cmtpd.service"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		name: strings.Join(b.Lines, "\n") + "\n", "cmtpd.service": strings.ReplaceAll(string(service), "/usr/bin/cmtpd", "/bin/true"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for line := range strings.Lines(analyze(t, "verify", "--man=no", filepath.Join(dir, name))) {
		if strings.Contains(line, name) {
			return fmt.Errorf("systemd-analyze says: %s", line)
		}
	}
	return nil
}

// readCommand checks a line of commands for what can be known of it without running it.
func readCommand(t *testing.T, l cmtptest.Line) error {
	for _, word := range l.Words {
		if err := pathExists(t, word); err != nil {
			return err
		}
	}
	switch program, args := l.Words[0], l.Words[1:]; program {
	case "cmtpd", "shorebird": // CommandLine's
		return nil
	case "make":
		return isTarget(t, args)
	case "go":
		return isGo(t, args)
	case "systemctl":
		return isSystemctl(t, args)
	case "apt":
		if !strings.Contains(l.Words[len(l.Words)-1], "_"+release.Number+"_") {
			return fmt.Errorf("%s is not of this release, %s", l.Words[len(l.Words)-1], release.Number)
		}
		return nil
	case "nft", "ss", "promtool", "swaks", "install", "setcap", "useradd", "grep", "curl", "mv", "sed":
		return nil // what they do is the machine's; those in a story are run
	default:
		return fmt.Errorf("nobody knows how to check %q", program)
	}
}

// pathExists looks for what a document says is in the source tree.
func pathExists(t *testing.T, word string) error {
	if !regexp.MustCompile(`^(\./)?(configs|docs|cmd|internal|packaging|testdata|\.ci)(/|$)`).MatchString(word) {
		return nil
	}
	_, err := os.Stat(filepath.Join(cmtptest.Root(t), strings.TrimSuffix(word, "/...")))
	return err
}

func isTarget(t *testing.T, args []string) error {
	text, err := os.ReadFile(filepath.Join(cmtptest.Root(t), "Makefile"))
	if err != nil {
		return err
	}
	for _, target := range args {
		if variable, _, ok := strings.Cut(target, "="); ok {
			target = variable
			if !regexp.MustCompile(`\$\(` + regexp.QuoteMeta(variable) + `\)`).Match(text) {
				return fmt.Errorf("the Makefile has no use for %s", variable)
			}
		} else if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(text) {
			return fmt.Errorf("the Makefile has no target %s", target)
		}
	}
	return nil
}

// isGo checks go test and go run: that the package is there (pathExists), that there are such tests, and that
// flags which are not the go command's own are the package's.
func isGo(t *testing.T, args []string) error {
	if args[0] != "test" && args[0] != "run" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(cmtptest.Root(t), args[1], "*.go"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("there is no package %s: %w", args[1], err)
	}
	var source strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		source.Write(b)
	}
	for i, arg := range args {
		name, ok := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(name, "=")
		switch {
		case !ok || slices.Contains([]string{"v", "timeout", "rapid.checks"}, name):
		case name == "run":
			if !regexp.MustCompile(`func Test\w*` + args[i+1]).MatchString(source.String()) {
				return fmt.Errorf("%s has no test %s", args[1], args[i+1])
			}
		case !regexp.MustCompile(`flag\.\w+\((&\w+(\.\w+)?, )?"` + name + `"`).MatchString(source.String()):
			return fmt.Errorf("%s has no flag -%s", args[1], name)
		}
	}
	return nil
}

// isSystemctl checks a verb against systemctl's own help, and that units are ours, or Debian's of a package that a
// document names.
func isSystemctl(t *testing.T, args []string) error {
	cmtptest.Need(t, "systemctl")
	help, err := exec.CommandContext(t.Context(), "systemctl", "--help").Output()
	if err != nil {
		return err
	}
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, "-"):
			if !strings.Contains(string(help), arg) {
				return fmt.Errorf("systemctl has no %s", arg)
			}
		case i == 0:
			if !regexp.MustCompile(`(?m)^  ` + arg + `\b`).Match(help) {
				return fmt.Errorf("systemctl cannot %s", arg)
			}
		case !slices.Contains([]string{"cmtpd", "cmtpd.service", "cmtpd.socket", "prometheus", "nftables"}, arg):
			return fmt.Errorf("there is no unit %s", arg)
		}
	}
	return nil
}

var linkPattern = regexp.MustCompile(`\]\(([^)]+)\)`)

// badLinks follows the links of a document, and what it calls sections: "see Damage".
func badLinks(t *testing.T, d *cmtptest.Document) (found []string) {
	for i, line := range d.Prose {
		for _, m := range linkPattern.FindAllStringSubmatch(line, -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			file := filepath.Join(filepath.Dir(d.Path), path)
			if path == "" {
				file = d.Path
			}
			text, err := os.ReadFile(filepath.Join(cmtptest.Root(t), file))
			switch {
			case strings.Contains(path, "://"):
				found = append(found, fmt.Sprintf("%s:%d: %s is elsewhere: nothing here checks that", d.Path, i+1, m[1]))
			case err != nil && !isDirectory(filepath.Join(cmtptest.Root(t), file)):
				found = append(found, fmt.Sprintf("%s:%d: %v", d.Path, i+1, err))
			case anchor != "" && !slices.Contains(anchors(string(text)), anchor):
				found = append(found, fmt.Sprintf("%s:%d: %s has no section #%s", d.Path, i+1, file, anchor))
			}
		}
		for _, m := range seePattern.FindAllStringSubmatch(spanText.ReplaceAllString(line, ""), -1) {
			begins := func(title string) bool { return strings.HasPrefix(m[1]+" ", title+" ") }
			if !slices.ContainsFunc(d.Headings, begins) && !strings.HasPrefix(m[1], "Cmtpd") { // an alert's
				found = append(found, fmt.Sprintf("%s:%d: there is no section %q", d.Path, i+1, m[1]))
			}
		}
	}
	return found
}

var (
	seePattern = regexp.MustCompile(`\b[Ss]ee ([A-Z][A-Za-z' ]*)`)
	spanText   = regexp.MustCompile("`[^`]*`")
	notInSlug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// anchors returns what a text's headings are called in links.
func anchors(text string) (all []string) {
	for _, title := range headings(text) {
		all = append(all, strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
	}
	return all
}

// badSpans looks up what stands in backquotes: keys of the configuration, targets of make, calls of go and systemctl,
// files.
func badSpans(t *testing.T, d *cmtptest.Document) (found []string) {
	keys := configKeys(reflect.TypeFor[config.Config](), "")
	tables := make(map[string]bool)
	for _, key := range keys {
		if table, _, ok := strings.Cut(key, "."); ok {
			tables[table] = true
		}
	}
	for _, s := range d.Spans {
		err := pathExists(t, s.Text)
		words := strings.Fields(s.Text)
		key := words[0]
		table, _, isDotted := strings.Cut(key, ".")
		switch {
		case isDotted && tables[table] && regexp.MustCompile(`^[a-z]+\.[a-z_]+$`).MatchString(key) && !slices.Contains([]string{"spool.key"}, key):
			if !slices.Contains(keys, key) {
				err = fmt.Errorf("the configuration has no key %s", key)
			}
		case regexp.MustCompile(`^\[[a-z]+\]$`).MatchString(s.Text):
			if !tables[strings.Trim(s.Text, "[]")] && s.Text != "[accounts]" && s.Text != "[servers]" { // shorebird's
				err = fmt.Errorf("the configuration has no table %s", s.Text)
			}
		case len(words) > 1 && words[0] == "ss":
			cmtptest.Need(t, "ss")
			err = exec.CommandContext(t.Context(), "ss", words[1:]...).Run()
		case len(words) > 1 && words[0] == "make":
			err = isTarget(t, words[1:])
		case len(words) > 1 && words[0] == "go":
			err = isGo(t, words[1:])
		case len(words) > 1 && words[0] == "systemctl":
			err = isSystemctl(t, words[1:])
		}
		if err != nil {
			found = append(found, fmt.Sprintf("%s:%d: `%s`: %v", d.Path, s.Line, s.Text, err))
		}
	}
	return found
}

// TestDocuments_Hints: the sections that the programs, and what is in configs, send people to are there.
func TestDocuments_Hints(t *testing.T) {
	t.Parallel()
	hint := regexp.MustCompile(`docs/operations\.md, "?([A-Z][A-Za-z' ]*)|([A-Z][a-z]+) in docs/operations\.md`)
	text, err := os.ReadFile(filepath.Join(cmtptest.Root(t), "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	titles := headings(string(text))
	seen := 0
	for _, dir := range []string{"cmd", "internal", "configs"} {
		err := filepath.WalkDir(filepath.Join(cmtptest.Root(t), dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range hint.FindAllStringSubmatch(string(b), -1) {
				seen++
				if title := strings.TrimSpace(m[1] + m[2]); !slices.Contains(titles, title) {
					t.Errorf("%s sends people to %s, which is not there", path, title)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 5 {
		t.Errorf("only %d hints were found", seen)
	}
}

func headings(text string) []string {
	d, err := cmtptest.ParseDocument("", text)
	if err != nil {
		return nil
	}
	return d.Headings
}

// configKeys returns the keys of the configuration, and the names of its tables.
func configKeys(typ reflect.Type, before string) (keys []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if key == "" || key == "-" {
			continue
		}
		keys = append(keys, before+key)
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, configKeys(f.Type, before+key+".")...)
		}
	}
	return keys
}
