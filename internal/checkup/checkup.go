// Package checkup looks over a server for its administrator: its files, its daemon, its users, and what others see of it.
//
// It guarantees that nothing is changed by looking, and that an answer that does not come costs a bounded time.
package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/letter"
)

// A Finding is something about a server that its operator should know.
type Finding struct {
	Check  string `json:"check"` // which one found it
	Note   bool   `json:"note"`  // nothing is wrong
	Text   string `json:"text"`
	Remedy string `json:"remedy"` // what to do
}

// String returns one line, whatever others have said that stands in it: it steers no terminal.
func (f Finding) String() string {
	s := f.Check + ": " + f.Text
	if f.Remedy != "" {
		s += "; " + f.Remedy
	}
	return letter.Line(strings.ReplaceAll(s, "\n", "; "))
}

// asOwner returns what to do about an error: who may not look has to be another, unless the file belongs to the wrong one,
// and for the rest it is otherwise.
func (c *checkup) asOwner(err error, otherwise string) string {
	if errors.Is(err, fs.ErrPermission) {
		if c.foreign {
			return "see above whose files are in the directory"
		}
		return "run this as the owner of the directory"
	}
	return otherwise
}

// Verdict says in a line what findings come to of which none is more than a note. Where no daemon could be asked it
// says no more than was seen.
func Verdict(notes []Finding) string {
	s := "nothing is wrong"
	if slices.ContainsFunc(notes, func(f Finding) bool { return f.Check == daemonCheck }) {
		s += " that can be seen without asking a daemon"
	}
	switch n := len(notes); n {
	case 0:
		return s
	case 1:
		return s + "; 1 note"
	default:
		return fmt.Sprintf("%s; %d notes", s, n)
	}
}

func problem(text, remedy string) []Finding { return []Finding{{Text: text, Remedy: remedy}} }
func note(text string) []Finding            { return []Finding{{Note: true, Text: text}} }

const (
	few      = 20 // findings of one kind, before the rest is counted
	fewNames = 5  // in a line
)

// some returns a few of many names.
func some(names []string) string {
	if len(names) > fewNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:fewNames], ", "), len(names)-fewNames)
	}
	return strings.Join(names, ", ")
}

// A checkup looks at one server. Nothing is changed by it, and what one check has learnt is there
// for those that come after.
type checkup struct {
	path    string // of the configuration
	cfg     *config.Config
	running *control.SpoolState // what the daemon says; nil where none could be asked
	silent  bool                // one is there, and does not answer
	barred  bool                // who runs this may not look into the data directory
	foreign bool                // a part of it belongs to another user than the directory
}

// daemonCheck asks the daemon; what it finds is that there is none to ask.
const daemonCheck = "daemon"

// A check is one of those that a checkup consists of.
type check struct {
	name string
	look func(context.Context) []Finding
}

// Check looks at the server that the configuration at path describes, beside its daemon
// or without one, and yields what there is to say of it, each thing when it is known.
func Check(ctx context.Context, path string) iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		cfg, err := config.Load(path)
		if err != nil {
			each(configFindings(err), "config", yield)
			return
		}
		c := &checkup{path: path, cfg: cfg}
		here := []check{{"config", c.file}, {"data", c.data}, {"keys", c.keys}, {"disk", c.disk}, {"clock", c.clock},
			{daemonCheck, c.daemon}, {"spool", c.spool}, {"trust", c.trust}, {"users", c.users}}
		for _, k := range here {
			if c.barred {
				break // each would say so again
			}
			if !each(k.look(ctx), k.name, yield) {
				return
			}
		}
		c.abroad(ctx, yield)
	}
}

// abroad makes the checks that wait for others, at the same time.
func (c *checkup) abroad(ctx context.Context, yield func(Finding) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	checks := []check{{"ports", c.ports}, {"backend", c.backend}, {"dns", c.records}}
	found := make([]chan []Finding, len(checks))
	for i, k := range checks {
		found[i] = make(chan []Finding, 1)
		go func() { found[i] <- k.look(ctx) }()
	}
	for i, k := range checks {
		if !each(<-found[i], k.name, yield) {
			return
		}
	}
}

// each yields findings as those of one check, and reports whether more are wanted.
func each(found []Finding, name string, yield func(Finding) bool) bool {
	for _, f := range found {
		f.Check = name
		if !yield(f) {
			return false
		}
	}
	return true
}

func configFindings(err error) (found []Finding) {
	const remedy = "cmtpd does not start with it: correct it (the manual page cmtpd.toml(5) shows every key)"
	var all *config.Error
	if !errors.As(err, &all) {
		return problem(err.Error(), "name the right file with --config")
	}
	for _, p := range all.Problems {
		found = append(found, Finding{Text: p.String(), Remedy: remedy})
	}
	return found
}
