package shorebird

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

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

// home returns where the user's files are, and what the configuration says.
func (r *run) home() (home, *settings, error) {
	h, err := newHome(r.Getenv)
	if err != nil {
		return h, nil, err
	}
	s, err := h.settings()
	return h, s, err
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

// loadXzibit returns the keys of a in a file, still sealed. It wraps errNoKeys where
// there are none.
func (h home) loadXzibit(a address.Address, path string) ([]byte, error) {
	x, err := durable.ReadFile(durable.OS, path, xzibit.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint(fmt.Errorf("opening the keys of %s: %w", a, errNoKeys), fmt.Sprintf("Fetch them first: shorebird recover %s", a))
	}
	if err != nil {
		return nil, fmt.Errorf("opening the keys of %s: %w", a, err)
	}
	return x, nil
}

// hasKeys reports whether there are keys of a on this machine.
func (h home) hasKeys(a address.Address) bool {
	_, err := h.loadXzibit(a, h.xzibit(a))
	_, perr := h.loadXzibit(a, h.pending(a))
	return !errors.Is(err, errNoKeys) || !errors.Is(perr, errNoKeys)
}

// pending returns the file of keys whose upload was not answered yet.
func (h home) pending(a address.Address) string { return h.xzibit(a) + ".pending" }

// lock returns the file that who changes the keys of a on this machine has locked.
func (h home) lock(a address.Address) string {
	return filepath.Join(h.data, fileName(a.String())+".lock")
}

// mailbox returns the directory of the local copy of a's mailbox.
func (h home) mailbox(a address.Address) string {
	return filepath.Join(h.data, fileName(a.String())+".mailbox")
}

// putAside moves aside the keys of a that are on this machine, which may be all that
// still opens old mail, unless they are among those of ring, or sealed alike in x. It
// returns where they are now, or "".
func (h home) putAside(a address.Address, x, password []byte, ring *xzibit.Keyring, now time.Time) (string, error) {
	before, err := h.loadXzibit(a, h.xzibit(a))
	if errors.Is(err, errNoKeys) || err == nil && string(before) == string(x) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if old, err := xzibit.Open(before, a.String(), password); err == nil {
		defer old.Wipe()
		if has(ring, old.Keys) {
			return "", nil
		}
	}
	path := aside(h.xzibit(a), now)
	if err := durable.WriteFile(durable.OS, path, before, 0o600); err != nil {
		return "", fmt.Errorf("keeping the old keys of %s: %w", a, err)
	}
	return path, nil
}

// remove removes a file that may be missing.
func (h home) remove(path string) error {
	err := durable.OS.Remove(path)
	if err == nil {
		err = durable.OS.SyncDir(filepath.Dir(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

// settings are what the configuration file says.
type settings struct {
	Account address.Address   `toml:"account"` // whose mail is sent and read
	Server  string            `toml:"server"`  // host:port, for every domain not in Servers
	Servers map[string]string `toml:"servers"` // domain to host:port
	// SentCopies says whether what is sent is kept in the sender's mailbox; nil is yes.
	SentCopies *bool `toml:"sent_copies"`
	// Accounts are the user's others, or all, by address.
	Accounts map[string]accountSettings `toml:"accounts"`
}

// accountSettings are of one account.
type accountSettings struct {
	Server string `toml:"server"` // host:port, of the account's domain
}

// home returns where the server of one of the user's accounts is that has the domain; "" where
// no account's settings say so.
func (s *settings) home(d address.Domain) string {
	for name, a := range s.Accounts {
		if n, err := address.Parse(name); err == nil && n.Domain == d && a.Server != "" {
			return a.Server
		}
	}
	return ""
}

// checkAccounts puts the names of accounts into normal form.
func (s *settings) checkAccounts() error {
	accounts := make(map[string]accountSettings, len(s.Accounts))
	places := map[address.Domain]string{}
	for name, a := range s.Accounts {
		n, err := address.Parse(name)
		if err == nil && a.Server != "" {
			if err = checkServer(a.Server); err == nil && places[n.Domain] != "" && places[n.Domain] != a.Server {
				err = fmt.Errorf("%s has one server, and here are two", n.Domain)
			}
			places[n.Domain] = a.Server
		}
		if err != nil {
			return fmt.Errorf("accounts.%q: %w", name, err)
		}
		accounts[n.String()] = a
	}
	s.Accounts = accounts
	return nil
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
	return s.checkAccounts()
}
