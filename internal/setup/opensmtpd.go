package setup

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"cmtpd/internal/config"
)

const smtpdConf = "etc/smtpd.conf"

// opensmtpd gives the listener of port 25 another address. Its options stay; further listeners of
// the port go.
func (m *Move) opensmtpd(files fs.FS, backend netip.AddrPort, proxy config.ProxyProtocol) {
	text, err := fs.ReadFile(files, smtpdConf)
	lines := strings.Split(string(text), "\n")
	first, edits, shown := 0, []string{}, []string{}
	for i, line := range lines {
		options, ok := listensOn25(line)
		if !ok {
			continue
		}
		if strings.HasSuffix(line, `\`) {
			err = fmt.Errorf("line %d goes on in the next one", i+1)
			break
		}
		if first == 0 {
			first = i + 1
			to := listener(backend, proxy, options)
			edits = append(edits, fmt.Sprintf("%dc %s", first, to))
			shown = append(shown, fmt.Sprintf("line %d, %q, becomes %q", first, strings.TrimSpace(line), to))
		} else {
			edits = append(edits, fmt.Sprintf("%ds/^/# /", i+1))
			shown = append(shown, fmt.Sprintf("line %d, %q, becomes a comment", i+1, strings.TrimSpace(line)))
		}
	}
	if err != nil || first == 0 {
		m.step(fmt.Sprintf("In /%s the line \"listen on\" of port 25 becomes %q, with its other options behind that.", smtpdConf, listener(backend, proxy, nil)))
		m.step("The file is tried:", "smtpd -n")
		return
	}
	sed := "sed -i" + before
	for _, e := range edits {
		sed += " -e " + sh(e)
	}
	m.step(fmt.Sprintf("In /%s %s.", smtpdConf, strings.Join(shown, "; ")), sed+" /"+smtpdConf, "smtpd -n")
}

// listener is the line for cmtpd.
func listener(backend netip.AddrPort, proxy config.ProxyProtocol, options []string) string {
	line := fmt.Sprintf("listen on %s port %d", backend.Addr(), backend.Port())
	if proxy != config.ProxyNone {
		line += " proxy-v2"
	}
	return strings.Join(append([]string{line}, options...), " ")
}

// listensOn25 returns the options of a line of smtpd.conf(5) that opens port 25, without those that
// say where it is open.
func listensOn25(line string) (options []string, ok bool) {
	code, _, _ := strings.Cut(line, "#")
	f := strings.Fields(code)
	if len(f) < 3 || f[0] != "listen" || f[1] != "on" || f[2] == "socket" {
		return nil, false
	}
	port := "smtp"
	for i := 3; i < len(f); i++ {
		switch word := f[i]; {
		case word == "port" && i+1 < len(f):
			i++
			port = f[i]
		case !slices.Contains([]string{"inet4", "inet6", "proxy-v2"}, word):
			options = append(options, word)
			if word == "smtps" && port == "smtp" {
				port = word // 465
			}
		}
	}
	return options, port == "smtp" || port == "25"
}
