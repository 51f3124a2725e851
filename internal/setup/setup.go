// Package setup makes a server out of nothing: it looks at the machine, writes the
// configuration, the data directory and the identity key, and says how the mail server that
// has port 25 goes behind cmtpd.
//
// It guarantees that nothing that is there is lost or replaced unasked, that the configuration is
// written last, whole or not at all, and that what lies in the data directory belongs to the user who
// will serve it. It changes nothing of another program's.
package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cmtpd/configs"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
)

// ErrAnswer is what wraps an answer that cannot be.
var ErrAnswer = errors.New("this cannot be configured")

// Answers are what init asks.
type Answers struct {
	Domains    []address.Domain
	Hostname   address.Domain
	DataDir    string               // absolute
	Backend    string               // host:port of the mail server behind; "" for none
	Proxy      config.ProxyProtocol // with Backend
	Postmaster address.Address      // zero for nobody
	Metrics    string               // host:port of the status page and the metrics; "" for nowhere
}

// setting matches a line of the commented configuration that sets a key, or would.
var setting = regexp.MustCompile(`^#?([a-z_]+) = `)

// Text returns the commented configuration with the answers in it, and what it means at the path
// at which it is to be.
func (a *Answers) Text(path string) (string, *config.Config, error) {
	values := map[string]string{
		"hostname": strconv.Quote(a.Hostname.String()), "data_dir": strconv.Quote(a.DataDir), "smtp.mode": strconv.Quote(string(config.Refuse)),
	}
	quoted := make([]string, len(a.Domains))
	for i, d := range a.Domains {
		quoted[i] = strconv.Quote(d.String())
	}
	values["domains"] = "[" + strings.Join(quoted, ", ") + "]"
	if !a.Postmaster.IsZero() {
		values["postmaster"] = strconv.Quote(a.Postmaster.String())
	}
	if a.Metrics != "" {
		values["metrics.listen"] = strconv.Quote(a.Metrics)
	}
	if a.Backend != "" {
		values["smtp.mode"] = strconv.Quote(string(config.Relay))
		values["smtp.backend"], values["smtp.proxy_protocol"] = strconv.Quote(a.Backend), strconv.Quote(string(a.Proxy))
	}
	text, err := fill(configs.Server, values)
	if err != nil {
		return "", nil, err
	}
	cfg, err := config.Parse(path, []byte(text))
	if all, ok := errors.AsType[*config.Error](err); ok {
		return "", nil, answerError(all)
	}
	return text, cfg, err
}

// answerError says what is wrong without lines of a file that is not there.
func answerError(all *config.Error) error {
	texts := make([]string, len(all.Problems))
	for i, p := range all.Problems {
		p.File, p.Line = "", 0
		texts[i] = p.String()
	}
	return fmt.Errorf("%w: %s", ErrAnswer, strings.Join(texts, "\n"))
}

// fill sets keys in the commented configuration, each in the place where it is explained.
func fill(text string, values map[string]string) (string, error) {
	var out strings.Builder
	section, filled := "", 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]\n") + "."
		} else if m := setting.FindStringSubmatch(line); m != nil {
			if value, ok := values[section+m[1]]; ok {
				filled++
				line = m[1] + " = " + value + "\n"
			}
		}
		out.WriteString(line)
	}
	if filled != len(values) {
		return "", fmt.Errorf("internal error: the commented configuration has %d of the keys %v", filled, values)
	}
	return out.String(), nil
}

// AnswersOf returns what a configuration answers.
func AnswersOf(c *config.Config) *Answers {
	a := &Answers{Domains: c.Domains, Hostname: c.Hostname, DataDir: c.DataDir, Postmaster: c.Postmaster, Metrics: c.Metrics.Listen}
	if c.SMTP.Mode == config.Relay {
		a.Backend, a.Proxy = c.SMTP.Backend, c.SMTP.ProxyProtocol
	}
	return a
}

// Move says how the mail server of this machine goes to the backend of the answers: the one on port 25, or else the
// only one that is installed. There is none where nobody has to move, has moved already, or nobody here knows how.
func (a *Answers) Move(files fs.FS, found *Facts) (*Move, error) {
	to, ok := a.localBackend()
	if !ok {
		return nil, nil
	}
	kind := Kind("")
	if found.Port25 != nil {
		kind = found.Port25.Kind
	} else if len(found.Installed) == 1 {
		kind = found.Installed[0]
	}
	if sockets, err := listening(files); err == nil && slices.ContainsFunc(sockets, func(s socket) bool { return s.addr == to }) {
		return nil, nil
	}
	if !slices.Contains(kinds, kind) {
		return nil, nil
	}
	return PlanMove(files, kind, to, a.Proxy)
}

// localBackend returns the backend as an address of this host, on which a move can be planned.
func (a *Answers) localBackend() (netip.AddrPort, bool) {
	host, err := netip.ParseAddrPort(strings.Replace(a.Backend, "localhost:", "127.0.0.1:", 1))
	return host, err == nil && host.Addr().IsLoopback()
}

// AbsDataDir returns the data directory as a configuration has it.
func AbsDataDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("making %q an absolute path: %w", dir, err)
	}
	return abs, nil
}
