package account_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/durable"
)

// A file that is no account is named, and all of them are; none is left out in
// silence, since that user's mail would be turned away.
func TestOpen_BadFiles(t *testing.T) {
	dir := t.TempDir()
	a := mustAdd(t, open(t, dir, durable.OS), "alice@example.org", 2)
	name := a.ID.String() + ".json"
	good, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 31) + "9"
	edit := func(change func(m map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for what, files := range map[string]map[string]string{
		"empty":               {name: ""},
		"truncated":           {name: string(good[:len(good)/2])},
		"one byte short":      {name: strings.TrimSuffix(string(good), "}\n")},
		"something behind":    {name: string(good) + "x"},
		"not JSON":            {name: "hello"},
		"wrong name":          {other + ".json": string(good)},
		"name in upper case":  {strings.ToUpper(a.ID.String()) + ".json": string(good)},
		"no ID":               {strings.Repeat("0", 32) + ".json": edit(func(m map[string]any) { delete(m, "id") })},
		"the operator's ID":   {account.Operator.String() + ".json": edit(func(m map[string]any) { m["id"] = account.Operator.String() })},
		"the queue's ID":      {account.Outgoing.String() + ".json": edit(func(m map[string]any) { m["id"] = account.Outgoing.String() })},
		"long ID":             {name: edit(func(m map[string]any) { m["id"] = a.ID.String() + "00" })},
		"no address":          {name: edit(func(m map[string]any) { delete(m, "address") })},
		"bad address":         {name: edit(func(m map[string]any) { m["address"] = "../../etc@example.org" })},
		"bad key":             {name: edit(func(m map[string]any) { m["key"] = make([]byte, 32) })},
		"no key":              {name: edit(func(m map[string]any) { delete(m, "key") })},
		"bad xzibit":          {name: edit(func(m map[string]any) { m["xzibit"] = a.Xzibit[:50] })},
		"too long":            {name: string(good) + strings.Repeat(" ", 1<<20)},
		"duplicate address":   {name: string(good), other + ".json": edit(func(m map[string]any) { m["id"] = other })},
		"two that are broken": {name: "", other + ".json": ""},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := account.Open(options(t, dir, durable.OS))
			if err == nil {
				t.Fatal("opened")
			}
			for name := range maps.Keys(files) {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%q does not name %s", err, name)
				}
			}
		})
	}
}

// An operator's own files are left alone; what an atomic write has left is taken
// away, since a xzibit lies in it.
func TestOpen_OtherFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"README", "old.json.bak", ".hidden", ".abc.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := dump(t, open(t, dir, durable.OS)); got != "[]" {
		t.Errorf("the store holds %s", got)
	}
	for name, want := range map[string]bool{"README": true, "old.json.bak": true, ".hidden": true, ".abc.tmp": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}
