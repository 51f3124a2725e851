package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"cmtpd/internal/address"

	"github.com/BurntSushi/toml"
)

// A Change is a key, or an alias, that two configurations differ in.
type Change struct {
	Key      string // dotted, as TOML writes it
	Old, New string // the values, for a person
	Live     bool   // a running daemon can change it; others wait for a restart
	Default  bool   // New is what counts where a file does not set the key; never of an alias
}

// Changes returns what is different in next, in the order of the keys.
func (c *Config) Changes(next *Config) (changes []Change) {
	unset := Default()
	for _, f := range fields() {
		was, is := f.in(c), f.in(next)
		switch {
		case f.key == "aliases":
			changes = append(changes, aliasChanges(c.Aliases, next.Aliases)...)
		case !same(was, is):
			changes = append(changes, Change{f.key, show(was), show(is), f.live, same(is, f.in(unset))})
		}
	}
	return changes
}

// same reports whether two values of one key say the same: so do no list and an empty one.
func same(a, b reflect.Value) bool {
	return a.Kind() == reflect.Slice && a.Len()+b.Len() == 0 || reflect.DeepEqual(a.Interface(), b.Interface())
}

// Reloaded returns the configuration that a daemon with c can have when it is given
// next: what can change is next's, the rest is still c's. It may be one that is not
// valid, where next alone is.
func (c *Config) Reloaded(next *Config) *Config {
	merged := *c
	for _, f := range fields() {
		if f.live {
			f.in(&merged).Set(f.in(next))
		}
	}
	return &merged
}

// RestartKeys returns the keys that a running daemon cannot change, sorted.
func RestartKeys() (keys []string) {
	for _, f := range fields() {
		if !f.live {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// A field is where in a Config a key's value is.
type field struct {
	key   string
	index []int
	live  bool
}

func (f field) in(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(f.index) }

// fields returns a field for each of Keys, in that order.
func fields() (all []field) {
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		all = append(all, fieldsOf(t, t.Field(i), nil)...)
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.key, b.key) })
	return all
}

// fieldsOf returns what the field f has: itself, or those of a table.
func fieldsOf(root reflect.Type, f reflect.StructField, at []string) (all []field) {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	at = append(slices.Clone(at), name)
	if f.Type.Kind() != reflect.Struct || f.Type.PkgPath() != root.PkgPath() {
		return []field{{key: strings.Join(at, "."), index: f.Index, live: f.Tag.Get("reload") == "live"}}
	}
	for i := range f.Type.NumField() {
		for _, sub := range fieldsOf(root, f.Type.Field(i), at) {
			sub.index = append(slices.Clone(f.Index), sub.index...)
			all = append(all, sub)
		}
	}
	return all
}

func aliasChanges(was, is map[address.Address]address.Address) (changes []Change) {
	both := maps.Clone(was)
	if both == nil {
		both = make(map[address.Address]address.Address)
	}
	maps.Copy(both, is)
	value := func(m map[address.Address]address.Address, a address.Address) string {
		if to, ok := m[a]; ok {
			return to.String()
		}
		return ""
	}
	for a := range both {
		if o, n := value(was, a), value(is, a); o != n {
			changes = append(changes, Change{toml.Key{"aliases", a.String()}.String(), o, n, true, false})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return changes
}

// show returns a value for a person.
func show(v reflect.Value) string {
	if a, ok := v.Interface().(address.Address); ok && a.IsZero() {
		return ""
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	words := make([]string, v.Len())
	for i := range words {
		words[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return strings.Join(words, ", ")
}
