package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"cmtpd/internal/nearest"
)

// unknownKey says what a key that nobody knows was probably meant to be: a known one in
// another table, one with a similar name, or at least one of its table.
func unknownKey(key toml.Key, isTable bool) string {
	known, tables := Keys(), tableNames()
	if isTable {
		if near := nearKeys(key.String(), tables); near != nil {
			return "unknown table; the nearest known one is " + inBrackets(near)
		}
		return "unknown table; there are " + inBrackets(tables)
	}
	near := nearKeys(key.String(), known)
	if near == nil {
		near = nearKeys(key.String(), tables)
	}
	switch {
	case near == nil && len(key) > 1 && slices.Contains(tables, key[0]):
		return fmt.Sprintf("unknown key; [%s] has %s", key[0], strings.Join(keysIn(key[0]), ", "))
	case near == nil:
		return "unknown key, and no known one is near"
	}
	if places, elsewhere := tablesOf(near, key[len(key)-1]); elsewhere {
		return "unknown key here: it belongs " + places
	}
	if len(near) > 1 {
		return "unknown key; the nearest known ones are " + strings.Join(near, ", ")
	}
	return "unknown key; the nearest known one is " + near[0]
}

// tablesOf says in which tables the keys are, if all of them have exactly this name.
func tablesOf(keys []string, name string) (places string, ok bool) {
	var tables []string
	for _, k := range keys {
		table, n := split(k)
		if n != name {
			return "", false
		}
		if table == "" {
			return "above the first table", true
		}
		tables = append(tables, table)
	}
	return "into " + strings.ReplaceAll(inBrackets(tables), ", ", " or "), true
}

func inBrackets(tables []string) string { return "[" + strings.Join(tables, "], [") + "]" }

// tableNames returns the names of all tables, sorted.
func tableNames() (names []string) {
	names = []string{"aliases"}
	for _, k := range Keys() {
		if table, _ := split(k); table != "" {
			names = append(names, table)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// keysIn returns the names of a table's keys, sorted.
func keysIn(table string) (names []string) {
	for _, k := range Keys() {
		if t, name := split(k); t == table {
			names = append(names, name)
		}
	}
	return names
}

// nearKeys returns the known keys that key most likely means, or none when none is
// near. A name that stands in the wrong table is as good as one slip more, and so is a
// table that has become part of the name.
func nearKeys(key string, known []string) (near []string) {
	table, name := split(key)
	least := 1 + len(name)/4
	for _, k := range known {
		t, n := split(k)
		d := nearest.Distance(strings.ToLower(name), n)
		if t != table {
			d = 1 + min(d, nearest.Distance(strings.ToLower(name), t+"_"+n))
		}
		if d < least {
			near, least = nil, d
		}
		if d == least {
			near = append(near, k)
		}
	}
	return near
}

// split cuts a dotted key before its last name.
func split(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}
