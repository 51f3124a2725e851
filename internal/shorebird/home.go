package shorebird

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"

	"cmtpd/internal/address"
	"cmtpd/internal/durable"
	"cmtpd/internal/xzibit"
)

// home is where a person's files are, by the XDG base directory specification.
type home struct {
	data   string // directory
	config string // file
}

func newHome(getenv func(string) string) (home, error) {
	dir := func(variable, fallback string) (string, error) {
		if d := getenv(variable); filepath.IsAbs(d) { // others are to be ignored
			return filepath.Join(d, "shorebird"), nil
		}
		d := getenv("HOME")
		if !filepath.IsAbs(d) {
			return "", hint(errors.New("there is no home directory"), "Set HOME or "+variable+".")
		}
		return filepath.Join(d, fallback, "shorebird"), nil
	}
	data, err := dir("XDG_DATA_HOME", ".local/share")
	if err != nil {
		return home{}, err
	}
	config, err := dir("XDG_CONFIG_HOME", ".config")
	return home{data, filepath.Join(config, "config.toml")}, err
}

// make makes the data directory, for its owner only.
func (h home) make() error {
	if err := durable.MkdirAll(durable.OS, h.data, 0o700); err != nil {
		return fmt.Errorf("making the directory for keys: %w", err)
	}
	return nil
}

// xzibit returns the file that keeps the keys of a.
func (h home) xzibit(a address.Address) string {
	return filepath.Join(h.data, fileName(a.String())+".xzibit")
}

// maxFileName leaves room for extensions within the 255 bytes of most systems.
const maxFileName = 200

// fileName spells an address so that it means nothing to any file system. One
// that gets too long ends in its hash.
func fileName(addr string) string {
	var b strings.Builder
	for i, c := range []byte(addr) {
		plain := 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(".-_+@", c) >= 0
		if plain && (i > 0 || c != '.' && c != '-') {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	s := b.String()
	if len(s) > maxFileName {
		s = fmt.Sprintf("%s%%%x", s[:maxFileName/2], sha256.Sum256([]byte(addr)))
	}
	return s
}

// loadXzibit returns the keys of a, still sealed.
func (h home) loadXzibit(a address.Address) ([]byte, error) {
	x, err := durable.ReadFile(durable.OS, h.xzibit(a), xzibit.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint(fmt.Errorf("opening the keys of %s: %w", a, errNoKeys), fmt.Sprintf("Fetch them first: shorebird recover %s", a))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the keys of %s: %w", a, err)
	}
	return x, nil
}

// saveXzibit keeps the sealed keys of a and returns where. Other ones that were
// kept before may be all that still opens old mail, so they are moved aside; old
// says where to, or is empty.
func (h home) saveXzibit(a address.Address, x []byte, stamp string) (path, old string, err error) {
	path = h.xzibit(a)
	before, err := durable.ReadFile(durable.OS, path, xzibit.MaxSize)
	switch {
	case err == nil && string(before) != string(x):
		old = path + "." + stamp
		if err := durable.WriteFile(durable.OS, old, before, 0o600); err != nil {
			return "", "", fmt.Errorf("keeping the old keys of %s: %w", a, err)
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("looking at the old keys of %s: %w", a, err)
	}
	if err := durable.WriteFile(durable.OS, path, x, 0o600); err != nil {
		return "", "", fmt.Errorf("saving the keys of %s: %w", a, err)
	}
	return path, old, nil
}

// settings are what the configuration file says.
type settings struct {
	Account address.Address   `toml:"account"` // whose mail is sent and read
	Server  string            `toml:"server"`  // host:port, for every domain not in Servers
	Servers map[string]string `toml:"servers"` // domain to host:port
}

// maxConfig bounds the configuration file, in bytes.
const maxConfig = 1 << 20

// settings reads the configuration file; a missing one says nothing.
func (h home) settings() (*settings, error) {
	text, err := durable.ReadFile(durable.OS, h.config, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return &settings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var s settings
	meta, err := toml.Decode(string(text), &s)
	if err == nil {
		err = s.check(meta.Undecoded())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errConfig, h.config, err)
	}
	return &s, nil
}

func (s *settings) check(undecoded []toml.Key) error {
	if len(undecoded) > 0 {
		return fmt.Errorf("unknown key %s", undecoded[0])
	}
	if s.Server != "" {
		if err := checkServer(s.Server); err != nil {
			return fmt.Errorf("server: %w", err)
		}
	}
	servers := make(map[string]string, len(s.Servers))
	for name, server := range s.Servers {
		d, err := address.ParseDomain(name)
		if err == nil {
			err = checkServer(server)
		}
		if err != nil {
			return fmt.Errorf("servers.%q: %w", name, err)
		}
		servers[d.String()] = server
	}
	s.Servers = servers
	return nil
}
