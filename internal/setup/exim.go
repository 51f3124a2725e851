package setup

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"cmtpd/internal/config"
)

const (
	debconf   = "etc/exim4/update-exim4.conf.conf"
	ownConf   = "etc/exim4/exim4.conf" // in the place of what Debian generates
	splitFile = "etc/exim4/conf.d/main/000_cmtpd"
	wholeFile = "etc/exim4/exim4.conf.localmacros"
)

// exim says what Debian's generator of Exim's configuration has to be told. Of Debian's two
// builds one knows the PROXY protocol.
func (m *Move) exim(files fs.FS, backend netip.AddrPort, proxy config.ProxyProtocol) {
	const doc = "usr/share/doc/exim4-daemon-"
	if proxy != config.ProxyNone && exists(files, doc+"light") && !exists(files, doc+"heavy") {
		m.step("Debian builds the PROXY protocol into exim4-daemon-heavy alone, which takes the place of exim4-daemon-light, and its configuration.",
			"apt-get install -y exim4-daemon-heavy", "exim4 -bV | grep -w PROXY")
	}
	settings, err := fs.ReadFile(files, debconf)
	if err != nil || exists(files, ownConf) {
		m.step(fmt.Sprintf("In the main section of Exim's configuration: local_interfaces = %s", eximAddress(backend)))
		if proxy != config.ProxyNone {
			m.step("And there: " + hostsProxy(backend))
		}
		m.step("The file is tried:", "exim4 -bV")
		return
	}
	interfaces := shellValue(string(settings), "dc_local_interfaces")
	value := eximAddress(backend)
	for _, other := range otherPorts(interfaces) {
		value += " ; " + other
	}
	m.step(fmt.Sprintf("In /%s the line dc_local_interfaces becomes: dc_local_interfaces='%s'", debconf, value),
		fmt.Sprintf("sed -i%s -e %s /%s", before, sh("s/^dc_local_interfaces=.*/dc_local_interfaces="+sh(value)+"/"), debconf))
	if proxy != config.ProxyNone {
		file, how := wholeFile, ">>"
		if shellValue(string(settings), "dc_use_split_config") == "true" {
			file, how = splitFile, ">"
		}
		m.step(fmt.Sprintf("In /%s: %s", file, hostsProxy(backend)), fmt.Sprintf("printf '%%s\\n' %s %s /%s", sh(hostsProxy(backend)), how, file))
	}
	m.step("Of these files Exim's configuration is made, and tried:", "update-exim4.conf")
	m.Notes = append(m.Notes, "If Exim listens on further ports (daemon_smtp_ports, 587 for one), name them in dc_local_interfaces too, behind a semicolon: 0.0.0.0.587")
}

// hostsProxy has this host send a header, on the port that is cmtpd's and on no other.
func hostsProxy(backend netip.AddrPort) string {
	return fmt.Sprintf("hosts_proxy = ${if eq{$received_port}{%d}{<; 127.0.0.1 ; ::1}{}}", backend.Port())
}

// eximAddress writes an address as a list of Exim's has it, of which the separator is a semicolon
// where there is one.
func eximAddress(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return fmt.Sprintf("%s.%d", a.Addr(), a.Port())
	}
	return fmt.Sprintf("<; [%s]:%d", a.Addr(), a.Port())
}

// otherPorts returns what a list of Exim's has for ports that are named, and are not 25.
func otherPorts(list string) (others []string) {
	for e := range strings.SplitSeq(list, ";") {
		e = strings.TrimSpace(e)
		if strings.Count(e, ".") == 4 && !strings.HasSuffix(e, ".25") && !strings.ContainsAny(e, ":<[") {
			others = append(others, e)
		}
	}
	return others
}

// shellValue returns what a file of assignments for a shell says of a name.
func shellValue(text, name string) (value string) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			value = strings.Trim(v, `'"`)
		}
	}
	return value
}
