package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"cmtpd/internal/address"

	"github.com/BurntSushi/toml"
)

// MaxFileSize is the largest file that is read, in bytes: some thousand aliases.
const MaxFileSize = 256 << 10

// ErrRead is what Load's error wraps where the file cannot be read.
var ErrRead = errors.New("reading the configuration")

// Load reads and checks the file at path. Its error is an *Error, or wraps ErrRead.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRead, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRead, err)
	}
	return Parse(path, data)
}

// Parse returns the configuration in data, complete and checked. The name is
// the file's: errors show it, and a relative data_dir begins at its directory.
// The error is an *Error.
func Parse(name string, data []byte) (*Config, error) {
	return parse(name, data, os.Hostname)
}

func parse(name string, data []byte, hostname func() (string, error)) (*Config, error) {
	if len(data) > MaxFileSize {
		return nil, newError([]Problem{{File: name, Text: fmt.Sprintf("the file exceeds %s", ByteSize(MaxFileSize))}})
	}
	var root table
	meta, err := toml.Decode(string(data), &root)
	if err != nil {
		return nil, newError([]Problem{syntaxProblem(name, err)})
	}
	if len(meta.Keys()) == 0 {
		return nil, newError([]Problem{{File: name, Text: `nothing is set in it: "cmtpd init" writes a configuration`}})
	}
	d := &decoder{file: name, data: data, meta: meta, seen: make(map[string]toml.Primitive)}
	c := Default()
	d.table(nil, root, reflect.ValueOf(c).Elem())
	d.complete(c, hostname)
	for _, p := range c.problems() {
		// What could not be read has been said; that it is missing is no news.
		if !d.isBad(p.Key) {
			d.add(p.Key, p.Text)
		}
	}
	if err := newError(d.problems); err != nil {
		return nil, err
	}
	return c, nil
}

func syntaxProblem(name string, err error) Problem {
	p := Problem{File: name, Text: err.Error()}
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		p.Line, p.Key, p.Text = pe.Position.Line, pe.LastKey, "this is not TOML: "+pe.Message
	}
	return p
}

// A table is a TOML table whose values are not yet decoded.
type table map[string]toml.Primitive

// A decoder fills a Config from a parsed file. The toml package's own decoder
// is lax (keys in any case, numbers for strings) and stops at the first
// mistake, so only its parser and its positions are used.
type decoder struct {
	file     string
	data     []byte
	meta     toml.MetaData
	seen     map[string]toml.Primitive // by dotted key: where to look for lines
	problems []Problem
}

// add records a problem with the line of its key or, when the key is missing,
// of the table where it is missed.
func (d *decoder) add(key, text string) {
	if d.isFull() {
		return
	}
	if len(d.problems) == maxProblems-1 {
		key, text = "", "there are more problems"
	}
	p := Problem{File: d.file, Key: key, Text: text}
	for at := key; at != "" && p.Line == 0; at, _ = split(at) {
		if prim, ok := d.seen[at]; ok {
			p.Line = d.line(prim)
		}
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) isFull() bool { return len(d.problems) >= maxProblems }

func (d *decoder) isBad(key string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Key == key })
}

// errHere is what a probe answers, so that the toml package says where it is.
var errHere = errors.New("here")

type probe struct{}

func (*probe) UnmarshalTOML(any) error { return errHere }

// line returns the line of a key. The toml package shows it only in the errors
// of a value's own decoder. A table that is only implied (a.b = 1) begins with
// its first key.
func (d *decoder) line(prim toml.Primitive) int {
	pe, ok := errors.AsType[toml.ParseError](d.meta.PrimitiveDecode(prim, &probe{}))
	if ok && pe.Position.Line > 0 {
		// Its Line is that of a long string's end; Start is right.
		return 1 + bytes.Count(d.data[:pe.Position.Start], []byte("\n"))
	}
	first := 0
	for _, sub := range d.subtable(prim) {
		if l := d.line(sub); l > 0 && (first == 0 || l < first) {
			first = l
		}
	}
	return first
}

// subtable returns the table that prim is, or nil when it is none.
func (d *decoder) subtable(prim toml.Primitive) table {
	if _, ok := d.raw(prim).(map[string]any); !ok {
		return nil
	}
	t := make(table)
	if err := d.meta.PrimitiveDecode(prim, &t); err != nil {
		panic("config: internal error: a table is no table: " + err.Error())
	}
	return t
}

func (d *decoder) raw(prim toml.Primitive) (v any) {
	if err := d.meta.PrimitiveDecode(prim, &v); err != nil {
		panic("config: internal error: a value is no value: " + err.Error())
	}
	return v
}

// table decodes t into the struct dst and reports every key that dst lacks.
func (d *decoder) table(at toml.Key, t table, dst reflect.Value) {
	fields := keysOf(dst.Type())
	for _, name := range sortedKeys(t) {
		if d.isFull() {
			return
		}
		key := append(slices.Clone(at), name)
		d.seen[key.String()] = t[name]
		i, ok := fields[name]
		if !ok {
			d.add(key.String(), unknownKey(key, d.subtable(t[name]) != nil))
			continue
		}
		d.field(key, t[name], dst.Field(i))
	}
}

func (d *decoder) field(key toml.Key, prim toml.Primitive, dst reflect.Value) {
	_, isText := dst.Addr().Interface().(encoding.TextUnmarshaler)
	isTable := dst.Kind() == reflect.Map || dst.Kind() == reflect.Struct && !isText
	if !isTable {
		if err := setValue(dst, d.raw(prim)); err != nil {
			dst.SetZero()
			d.add(key.String(), err.Error())
		}
		return
	}
	t := d.subtable(prim)
	switch {
	case t == nil:
		d.add(key.String(), wrongType("a table", d.raw(prim)).Error())
	case dst.Kind() == reflect.Map:
		dst.Set(reflect.ValueOf(d.aliases(key, t)))
	default:
		d.table(key, t, dst)
	}
}

// aliases decodes the one table whose keys are data.
func (d *decoder) aliases(at toml.Key, t table) map[address.Address]address.Address {
	aliases := make(map[address.Address]address.Address, len(t))
	for _, name := range sortedKeys(t) {
		key := append(slices.Clone(at), name)
		d.seen[key.String()] = t[name]
		alias, err := address.Parse(name)
		if err != nil {
			d.add(key.String(), err.Error())
			continue
		}
		var target address.Address
		if err := setValue(reflect.ValueOf(&target).Elem(), d.raw(t[name])); err != nil {
			d.add(key.String(), err.Error())
			continue
		}
		if _, twice := aliases[alias]; twice {
			d.add(key.String(), fmt.Sprintf("another spelling of %s is an alias already", alias))
			continue
		}
		// Validate speaks of aliases in their normal form.
		d.seen[append(slices.Clone(at), alias.String()).String()] = t[name]
		aliases[alias] = target
	}
	return aliases
}

// complete fills in what depends on the machine and on where the file lies.
func (d *decoder) complete(c *Config, hostname func() (string, error)) {
	if _, set := d.seen["hostname"]; !set {
		name, err := hostname()
		if err == nil && !strings.Contains(name, ".") {
			err = fmt.Errorf("%q has no domain", name)
		}
		if err == nil {
			c.Hostname, err = address.ParseDomain(name)
		}
		if err != nil {
			d.add("hostname", fmt.Sprintf("set it to this machine's full name: its own is of no use (%v)", err))
		}
	}
	if c.DataDir != "" && !filepath.IsAbs(c.DataDir) {
		dir, err := filepath.Abs(filepath.Join(filepath.Dir(d.file), c.DataDir))
		if err != nil {
			d.add("data_dir", fmt.Sprintf("cannot be made an absolute path: %v", err))
			return
		}
		c.DataDir = dir
	}
}

// keysOf returns the keys of a table, each with the index of its field.
func keysOf(t reflect.Type) map[string]int {
	keys := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("toml"), ",")
		keys[name] = i
	}
	return keys
}

// Keys returns every key that a file may have, dotted and sorted. That of a
// table with keys of the operator's choice stands for all of them.
func Keys() (keys []string) {
	for _, f := range fields() {
		keys = append(keys, f.key)
	}
	return keys
}

func sortedKeys(t table) []string {
	keys := make([]string, 0, len(t))
	for k := range t {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// setValue sets dst to v, which has exactly the type that dst asks for.
func setValue(dst reflect.Value, v any) error {
	switch p := dst.Addr().Interface().(type) {
	case *ByteSize:
		return setByteSize(p, v)
	case *time.Duration:
		s, ok := v.(string)
		if !ok {
			return wrongType(wantDuration, v)
		}
		var err error
		*p, err = ParseDuration(s)
		return err
	case *netip.Prefix:
		s, ok := v.(string)
		if !ok {
			return wrongType("a network or an address in a string", v)
		}
		var err error
		*p, err = parseNetwork(s)
		return err
	case encoding.TextUnmarshaler:
		s, ok := v.(string)
		if !ok {
			return wrongType("a string", v)
		}
		return p.UnmarshalText([]byte(s))
	}
	return setBasic(dst, v)
}

func setBasic(dst reflect.Value, v any) error {
	switch dst.Kind() {
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			return wrongType("a string", v)
		}
		dst.SetString(s)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			return wrongType("true or false", v)
		}
		dst.SetBool(b)
	case reflect.Int:
		n, ok := v.(int64)
		if !ok {
			return wrongType("a whole number", v)
		}
		if dst.OverflowInt(n) {
			return fmt.Errorf("%d is too large", n)
		}
		dst.SetInt(n)
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			return wrongType("a list in [ ]", v)
		}
		s := reflect.MakeSlice(dst.Type(), len(list), len(list))
		for i, e := range list {
			if err := setValue(s.Index(i), e); err != nil {
				return fmt.Errorf("value %d of the list: %w", i+1, err)
			}
		}
		dst.Set(s)
	default:
		panic("config: internal error: a key of the type " + dst.Type().String())
	}
	return nil
}

func setByteSize(dst *ByteSize, v any) error {
	switch v := v.(type) {
	case int64:
		*dst = ByteSize(v)
		return nil
	case string:
		var err error
		*dst, err = ParseByteSize(v)
		return err
	}
	return wrongType("a size: a number of bytes, or a string", v)
}

// parseNetwork returns the network that s spells, or the one that holds only
// the address s.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf(`expected a network such as "192.0.2.0/24" or an address; found %q`, s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%s has bits behind its prefix: did you mean %s?", p, p.Masked())
	}
	return p, nil
}

func wrongType(want string, v any) error {
	found := fmt.Sprintf("%T", v)
	switch v.(type) {
	case string:
		found = "a string"
	case int64:
		found = "a whole number"
	case float64:
		found = "a number with a point"
	case bool:
		found = "a boolean"
	case time.Time:
		found = "a date"
	case map[string]any:
		found = "a table"
	case []any, []map[string]any:
		found = "a list"
	}
	return fmt.Errorf("expected %s, found %s", want, found)
}
