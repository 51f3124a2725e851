package setup

import (
	"bufio"
	"context"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cmtpd/internal/address"
)

// A Machine is what Look looks at.
type Machine struct {
	Files    fs.FS // the root of the file system; one with ReadLink tells processes
	Hostname func() (string, error)
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error) // to port 25 of the machine itself
}

// ThisMachine is the one on which the program runs.
func ThisMachine() Machine {
	return Machine{Files: os.DirFS("/"), Hostname: os.Hostname, Dial: new(net.Dialer).DialContext}
}

// Facts are what was found. What was not is zero.
type Facts struct {
	Hostname  address.Domain `json:"hostname"`  // the full name
	Domain    address.Domain `json:"domain"`    // of the mail, most likely
	Port25    *Listener      `json:"port_25"`   // nil: nobody listens there
	Installed []Kind         `json:"installed"` // mail servers whose configuration is there
	Backend   string         `json:"backend"`   // host:port where a mail server of this machine could go
	Metrics   string         `json:"metrics"`   // host:port where the status page and metrics can be served
	Systemd   bool           `json:"systemd"`   // systemd runs here
	Units     bool           `json:"units"`     // cmtpd's units are installed
}

// A Listener is who listens on port 25.
type Listener struct {
	Kind      Kind     `json:"kind"`     // "" where it is not known
	Program   string   `json:"program"`  // its executable; "" where only root may know
	Greeting  string   `json:"greeting"` // where it was needed
	Addresses []string `json:"addresses"`
}

// String names it as far as it is known. Where ports below 1024 are anybody's, so is the name of the program.
func (l *Listener) String() string {
	switch {
	case l.Kind != "":
		return l.Kind.String()
	case l.Program != "":
		if q := strconv.Quote(l.Program); q != `"`+l.Program+`"` || strings.Contains(l.Program, " ") {
			return q
		}
		return l.Program
	case l.Greeting != "":
		return "a server that greets with " + strconv.Quote(l.Greeting)
	}
	return "a server that does not say what it is"
}

const (
	smtpPort = 25
	// lookTime bounds what is asked of the network at a time.
	lookTime = 5 * time.Second
	maxLine  = 512 // of a greeting: RFC 5321 section 4.5.3.1.5
)

// Look finds out what init would otherwise have to ask. It changes nothing, and fails
// nowhere: what cannot be found is left to the person.
func Look(ctx context.Context, m Machine) *Facts {
	f := &Facts{Hostname: m.hostname(), Installed: []Kind{}}
	f.Domain = m.domain(f.Hostname)
	for _, k := range kinds {
		if exists(m.Files, k.config()) {
			f.Installed = append(f.Installed, k)
		}
	}
	f.Systemd = exists(m.Files, "run/systemd/system")
	for _, dir := range []string{"etc", "lib", "usr/lib"} {
		f.Units = f.Units || exists(m.Files, dir+"/systemd/system/cmtpd.service")
	}
	f.Port25 = m.port25(ctx, f.Installed)
	f.Backend = m.freeBackend()
	f.Metrics = m.freeMetrics()
	return f
}

func exists(files fs.FS, name string) bool {
	_, err := fs.Stat(files, name)
	return err == nil
}

// hostname returns the machine's name, with its domain: /etc/hosts has that where the name is a short one.
func (m Machine) hostname() address.Domain {
	name, err := m.Hostname()
	if err != nil || name == "" {
		return address.Domain{}
	}
	hosts, _ := fs.ReadFile(m.Files, "etc/hosts")
	for line := range strings.Lines(string(hosts)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if strings.Contains(name, ".") || len(f) < 2 || !slices.Contains(f[1:], name) {
			continue
		}
		if d := fullName(f[1]); !d.IsZero() {
			return d
		}
	}
	return fullName(name)
}

// fullName returns the domain that s spells, or none if it has one label.
func fullName(s string) address.Domain {
	d, err := address.ParseDomain(strings.TrimSuffix(strings.TrimSpace(s), "."))
	if err != nil || !strings.Contains(d.String(), ".") || d.String() == "localhost.localdomain" {
		return address.Domain{}
	}
	return d
}

// domain returns what is behind the @ of this machine's mail: what Debian's
// packages have asked for, or else the host's domain.
func (m Machine) domain(host address.Domain) address.Domain {
	if b, err := fs.ReadFile(m.Files, "etc/mailname"); err == nil {
		line, _, _ := strings.Cut(string(b), "\n")
		if d := fullName(line); !d.IsZero() && d != host {
			return d
		}
	}
	if _, rest, _ := strings.Cut(host.String(), "."); strings.Contains(rest, ".") {
		return fullName(rest)
	}
	return host
}

// port25 returns who listens on port 25. A program is more certain than a greeting,
// which can be set to anything, and that more than a configuration, which may be of
// a server that does not run.
func (m Machine) port25(ctx context.Context, installed []Kind) *Listener {
	sockets, err := listening(m.Files)
	var there []socket
	for _, s := range sockets {
		if s.addr.Port() == smtpPort {
			there = append(there, s)
		}
	}
	if err == nil && there == nil {
		return nil
	}
	l := &Listener{Addresses: []string{}}
	for _, s := range there {
		l.Addresses = append(l.Addresses, s.addr.String())
	}
	l.Program = owner(m.Files, there)
	if l.Kind = kindOfProgram(l.Program); l.Kind != "" {
		return l
	}
	greeting, ok := m.greeting(ctx, there)
	if !ok && there == nil {
		return nil
	}
	l.Greeting = greeting
	if l.Kind = kindOfGreeting(greeting); l.Kind == "" && l.Program == "" && len(installed) == 1 {
		l.Kind = installed[0]
	}
	return l
}

// greeting returns the first line that the server says.
func (m Machine) greeting(ctx context.Context, there []socket) (line string, ok bool) {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), smtpPort)
	if len(there) > 0 && !there[0].addr.Addr().IsUnspecified() {
		at = there[0].addr
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	c, err := m.Dial(ctx, "tcp", at.String())
	if err != nil {
		return "", false
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		c.SetDeadline(end)
	}
	line, _ = bufio.NewReader(io.LimitReader(c, maxLine)).ReadString('\n')
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line), true
}
