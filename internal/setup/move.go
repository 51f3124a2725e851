package setup

import (
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"cmtpd/internal/config"
)

// A Kind is a mail server that is known here: how it is told from others, and how it is
// put behind cmtpd.
type Kind string

// The mail servers, and cmtpd itself.
const (
	Postfix   Kind = "postfix"
	OpenSMTPD Kind = "opensmtpd"
	Exim      Kind = "exim"
	Cmtpd     Kind = "cmtpd"
)

var kinds = []Kind{Postfix, OpenSMTPD, Exim}

// String returns the name as its makers write it.
func (k Kind) String() string {
	switch k {
	case Postfix:
		return "Postfix"
	case OpenSMTPD:
		return "OpenSMTPD"
	case Exim:
		return "Exim"
	}
	return string(k)
}

// config is the file or directory that is there where the server is installed.
func (k Kind) config() string {
	return map[Kind]string{Postfix: "etc/postfix/main.cf", OpenSMTPD: smtpdConf, Exim: "etc/exim4"}[k]
}

// kindOfProgram tells a server by its executable. Postfix has an smtpd of its own.
func kindOfProgram(exe string) Kind {
	base := path.Base(exe)
	switch {
	case strings.Contains(exe, "/postfix/"):
		return Postfix
	case base == "smtpd":
		return OpenSMTPD
	case strings.HasPrefix(base, "exim"):
		return Exim
	case base == "cmtpd":
		return Cmtpd
	}
	return ""
}

// kindOfGreeting tells a server by what it says unless it was told to say something else.
func kindOfGreeting(line string) Kind {
	for _, g := range []struct {
		kind Kind
		word string
	}{{OpenSMTPD, "OpenSMTPD"}, {Postfix, "Postfix"}, {Exim, "Exim"}, {Cmtpd, "ESMTP CMTP ready"}} {
		if strings.Contains(line, g.word) {
			return g.kind
		}
	}
	return ""
}

// A Move is how a mail server goes behind cmtpd. Until Switch nothing changes for anybody.
type Move struct {
	Server string   `json:"server"`
	Steps  []Step   `json:"steps"`
	Switch []string `json:"switch"` // shell commands that make it let go of port 25, done when they return
	Notes  []string `json:"notes"`
}

// A Step is one thing to do: by hand as the text says it, or by the commands, for a shell of root's.
type Step struct {
	Text     string   `json:"text"`
	Commands []string `json:"commands"` // empty where a person has to look
}

// PlanMove says how a mail server of this machine goes to backend, to be told there
// who its clients are.
func PlanMove(files fs.FS, k Kind, backend netip.AddrPort, proxy config.ProxyProtocol) (*Move, error) {
	m := &Move{Server: k.String(), Steps: []Step{}, Notes: []string{}}
	service := string(k)
	switch k {
	case Postfix:
		m.postfix(files, backend, proxy)
	case OpenSMTPD:
		if proxy == config.ProxyV1 {
			return nil, fmt.Errorf("OpenSMTPD takes version 2 of the PROXY protocol alone: choose %s", config.ProxyV2)
		}
		m.opensmtpd(files, backend, proxy)
	case Exim:
		service = "exim4"
		m.exim(files, backend, proxy)
	default:
		return nil, fmt.Errorf("it is not known here how to move %s", k)
	}
	if exists(files, "run/systemd/system") {
		m.Switch = []string{"systemctl restart " + service}
	} else {
		m.Switch = []string{"service " + service + " restart"}
	}
	if proxy == config.ProxyNone {
		m.Notes = append(m.Notes, "Without the PROXY protocol every client looks like this host. Take this host's addresses from what may relay, or anybody may: "+
			"cmtpd asks the mail server at each start, and does not front one that relays for a stranger.")
	} else {
		m.Notes = append(m.Notes, "Clients keep their addresses: who may relay stays as it is, and programs of this host that send to port 25 of it still may.")
	}
	return m, nil
}

func (m *Move) step(text string, commands ...string) {
	m.Steps = append(m.Steps, Step{text, append([]string{}, commands...)})
}

// sh quotes a word for a shell.
func sh(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// plainWord matches what is one word to a shell, and nothing else.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_/.][A-Za-z0-9_/.@:=+-]*$`)

// Word returns s as a shell has to be told it.
func Word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return sh(s)
}

// before is what the copy of a file is called that a step changes.
const before = ".before-cmtpd"

const masterCF = "etc/postfix/master.cf"

// postfix gives the service of port 25 another address, and its daemon another option. All
// others of its options stay.
func (m *Move) postfix(files fs.FS, backend netip.AddrPort, proxy config.ProxyProtocol) {
	to := backend.String()
	services, err := smtpServices(files)
	if err != nil {
		services = []service{{"smtp", "smtpd"}} // Debian's
	}
	if len(services) == 0 {
		m.step(fmt.Sprintf("In /%s no service has port 25: give the one that has it the address %s, and its smtpd the option smtpd_upstream_proxy_protocol=haproxy.", masterCF, to))
		return
	}
	first := services[0]
	commands := []string{
		"cp -p /" + masterCF + " /" + masterCF + before,
		"postconf -F " + sh(first.name+"/inet/service="+to),
	}
	text := fmt.Sprintf("In /%s the line %q gets the address %s in the place of its first word", masterCF, first.name+" inet", to)
	if proxy != config.ProxyNone {
		option := first.command + "_upstream_proxy_protocol=haproxy"
		commands = append(commands, "postconf -P "+sh(to+"/inet/"+option))
		text += fmt.Sprintf(", and below it the option -o %s", option)
	}
	for _, s := range services[1:] {
		commands = append(commands, "postconf -MX "+sh(s.name+"/inet"))
		text += fmt.Sprintf("; %q goes", s.name+" inet")
	}
	m.step(text+".", append(commands, "postfix check")...)
	if main, err := fs.ReadFile(files, Postfix.config()); err == nil && isIPv4Only(string(main)) {
		m.step("In /etc/postfix/main.cf inet_protocols is ipv4: then Postfix answers 421 to clients with an IPv6 address, who come through cmtpd now.", "postconf -e inet_protocols=all")
	}
}

// A service is a line of master.cf: its first word, and its program.
type service struct{ name, command string }

// smtpServices returns the services of master.cf that listen on port 25 (master(5)).
func smtpServices(files fs.FS) (found []service, err error) {
	text, err := fs.ReadFile(files, masterCF)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 8 || strings.HasPrefix(line, "#") || line[0] == ' ' || line[0] == '\t' || f[1] != "inet" {
			continue
		}
		if port := f[0][strings.LastIndexByte(f[0], ':')+1:]; port == "smtp" || port == "25" {
			found = append(found, service{f[0], f[7]})
		}
	}
	return found, nil
}

// isIPv4Only reports whether main.cf sets inet_protocols, the last time, to IPv4 alone.
func isIPv4Only(main string) bool {
	value := ""
	for line := range strings.Lines(main) {
		if key, v, ok := strings.Cut(line, "="); ok && strings.TrimRight(key, " \t") == "inet_protocols" {
			value = strings.TrimSpace(v)
		}
	}
	return value == "ipv4"
}
