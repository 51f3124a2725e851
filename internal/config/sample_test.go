package config_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/config"
)

const sampleFile = "../../configs/cmtpd.toml"

// examples are the keys of the sample that have no default to show.
var examples = []string{"aliases", "domains", "hostname", "postmaster", "smtp.backend", "smtp.proxy_protocol"}

func readSample(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSample_AsShipped: the file as it is is a good one that changes nothing
// but the domains.
func TestSample_AsShipped(t *testing.T) {
	got, err := config.ParseOn("mx.example.org", "/etc/cmtpd.toml", []byte(readSample(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Hostname, want.Domains, want.Aliases = got.Hostname, got.Domains, got.Aliases
	if len(got.Aliases) != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

var setting = regexp.MustCompile(`^#?("[^"]+"|[a-z_]+) = `)

// TestSample_Defaults: with every setting taken into force the file shows each
// key of the program once, under some words about it, with its true default.
func TestSample_Defaults(t *testing.T) {
	var live, keys []string
	section, before := "", ""
	for line := range strings.Lines(readSample(t)) {
		line = strings.TrimSuffix(line, "\n")
		switch m := setting.FindStringSubmatch(line); {
		case m != nil:
			if !strings.HasPrefix(before, "# ") && section != "aliases." {
				t.Errorf("%s has no explanation", line)
			}
			line = strings.TrimPrefix(line, "#")
			keys = append(keys, section+m[1])
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]") + "."
		case line != "" && !strings.HasPrefix(line, "# ") && line != "#":
			t.Errorf("%q is neither text nor setting", line)
		}
		live, before = append(live, line), line
	}
	i := slices.Index(keys, `aliases."info@example.org"`)
	if i < 0 {
		t.Fatal("there is no example of an alias")
	}
	keys[i] = "aliases"
	slices.Sort(keys)
	if !slices.Equal(keys, config.Keys()) {
		t.Errorf("the file has the keys\n%q\nthe program has\n%q", keys, config.Keys())
	}
	got, err := config.Parse("cmtpd.toml", []byte(strings.Join(live, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range config.Keys() {
		shown, truth := field(t, got, key), field(t, config.Default(), key)
		if slices.Contains(examples, key) {
			if !truth.IsZero() {
				t.Errorf("%s has the default %v but is an example", key, truth)
			}
		} else if !reflect.DeepEqual(shown.Interface(), truth.Interface()) {
			t.Errorf("%s is shown as %v, its default is %v", key, shown, truth)
		}
	}
}

// TestSample_Restart: the file names exactly the keys that a running daemon cannot change.
func TestSample_Restart(t *testing.T) {
	_, after, _ := strings.Cut(readSample(t), "These keys wait for a restart: ")
	list, _, ok := strings.Cut(after, ".\n")
	if !ok {
		t.Fatal("there is no list of them")
	}
	single, tables, _ := strings.Cut(strings.ReplaceAll(list, "\n# ", " "), ", and all in ")
	shown := strings.Split(single, ", ")
	for _, key := range config.Keys() {
		if table, _, ok := strings.Cut(key, "."); ok && strings.Contains(tables, "["+table+"]") {
			shown = append(shown, key)
		}
	}
	slices.Sort(shown)
	if !slices.Equal(shown, config.RestartKeys()) {
		t.Errorf("the file says\n%q\nthe program\n%q", shown, config.RestartKeys())
	}
}

// No setting is a secret: who may read the file, and the log of a reload, is nobody's concern.
func TestKeys_NoSecrets(t *testing.T) {
	for _, key := range config.Keys() {
		_, name, _ := strings.Cut("."+key, ".")
		for _, word := range []string{"password", "passphrase", "secret", "token", "credential", "private", "auth"} {
			if strings.Contains(name, word) {
				t.Errorf("%s looks like a secret, which belongs into a file of its own", key)
			}
		}
	}
}

// field returns the field of c that a dotted key names.
func field(t *testing.T, c *config.Config, key string) reflect.Value {
	t.Helper()
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		i := slices.IndexFunc(reflect.VisibleFields(v.Type()), func(f reflect.StructField) bool {
			tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			return tag == name
		})
		if i < 0 {
			t.Fatalf("no field for the key %s", key)
		}
		v = v.Field(i)
	}
	return v
}
