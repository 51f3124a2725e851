package shorebird

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// KeysReport is what keys prints with --json.
type KeysReport struct {
	Address           string `json:"address"`
	Key               string `json:"key"`
	Fingerprint       string `json:"fingerprint"`
	Server            string `json:"server"` // host:port that was asked
	ServerKey         string `json:"server_key"`
	ServerFingerprint string `json:"server_fingerprint"`
	Trust             Trust  `json:"trust"`
	Protocol          string `json:"protocol"`

	// Of the key's history, which CMTP 0.01 has not.
	Statements int       `json:"statements,omitempty"` // keys that the account had, with this one
	Resets     int       `json:"resets,omitempty"`     // of them made anew, not signed for
	Since      time.Time `json:"since,omitzero"`       // this key

	Change   KeyChange `json:"change,omitempty"`               // since the address was seen last
	Previous string    `json:"previous_fingerprint,omitempty"` // the key then, where it was another

	// Home is the user's own server, where that one was asked: server_key, trust and
	// protocol are then of the address's server, as the own one tells.
	Home *HomeReport `json:"home,omitempty"`
}

// HomeReport is who told of another domain's server.
type HomeReport struct {
	Domain            string  `json:"domain"`
	ServerKey         string  `json:"server_key"`
	ServerFingerprint string  `json:"server_fingerprint"`
	Vouched           Voucher `json:"vouched"` // what vouches for the other server's key
}

func (a *answer) report() KeysReport {
	v := KeysReport{
		Address: a.address.String(), Key: base64Key(a.key), Fingerprint: a.key.String(),
		Server: a.where, ServerKey: base64Key(a.server), ServerFingerprint: a.server.String(), Trust: a.trust,
		Protocol: protocol(a.history != nil), Change: a.change,
	}
	if a.before != (crypt.PublicKey{}) && a.before != a.key {
		v.Previous = a.before.String()
	}
	if t := a.told; t != nil {
		v.Home = &HomeReport{t.by.String(), base64Key(t.key), t.key.String(), t.vouched}
	}
	if a.history != nil {
		v.Statements, v.Since = len(a.history.Keys), a.history.Current().NotBefore.Time()
		for _, k := range a.history.Keys {
			if k.Reset {
				v.Resets++
			}
		}
	}
	return v
}

// words says to a person what a trust means.
func (t Trust) words() string {
	switch t {
	case FirstContact:
		return "first contact: nobody vouches for this server yet; it is remembered from now on"
	case Succeeded:
		return "succeeded: the key that the server had before has named this one"
	case Invited:
		return "invited: the code of the invitation names this server"
	}
	return "remembered: the server has the key that it had before"
}

// story tells the history of a key.
func (v *KeysReport) story() string {
	if v.Statements == 0 {
		return "not known: CMTP 0.01 has none"
	}
	s := fmt.Sprintf("key %d of the account", v.Statements)
	if !v.Since.IsZero() {
		s += ", since " + v.Since.Format(time.DateOnly)
	}
	if v.Resets > 0 {
		s += fmt.Sprintf("; was reset %d times: nobody but the server vouches for the new key then", v.Resets)
	}
	return s
}

// rows tell of the server, and who vouches for it.
func (v *KeysReport) rows() [][2]string {
	key := [][2]string{{"server key", v.ServerKey}, {"server fingerprint", v.ServerFingerprint}}
	protocol := [2]string{"protocol", v.Protocol}
	if v.Home == nil {
		return append(append([][2]string{{"server", v.Server}}, key...), [2]string{"trust", v.Trust.words()}, protocol)
	}
	return append(append([][2]string{{"asked", v.Server + ", your own server, of " + v.Home.Domain}}, key...),
		[2]string{"trust", v.Trust.told()}, [2]string{"vouched for by", v.Home.Vouched.words()}, protocol)
}

type keysOptions struct {
	accept, direct bool
	account        string
}

func (r *run) keys(ctx context.Context, arg string, o keysOptions) error {
	addr, err := address.Parse(arg)
	if err != nil {
		return err
	}
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	n.accept = o.accept
	account := n.settings.Account
	if o.account != "" {
		if account, err = address.Parse(o.account); err != nil {
			return fmt.Errorf("--account: %w", err)
		}
	}
	f := r.finder(n, h, account, o.direct)
	f.fresh = true
	a, err := f.find(ctx, addr)
	if err != nil {
		return err
	}
	v := a.report()
	return r.report(v, func(out *bytes.Buffer) {
		rows := [][2]string{{"address", v.Address}, {"key", v.Key}, {"fingerprint", v.Fingerprint}, {"history", v.story()}}
		if v.Previous != "" {
			rows = append(rows, [2]string{"before", v.Previous + ", " + changes[v.Change]})
		}
		table(out, append(rows, v.rows()...))
	})
}

// table writes rows of a name and a value, the values under one another.
func table(out *bytes.Buffer, rows [][2]string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	w.Flush() // a bytes.Buffer does not fail
}

// changes say what was done about a key that is another one.
var changes = map[KeyChange]string{
	Rotated:    "which has signed for the new one",
	AcceptedIt: "which has not signed for the new one: it is remembered from now on because you said so",
}

// ForgetReport is what keys --forget prints with --json.
type ForgetReport struct {
	Domain    string    `json:"domain,omitempty"`
	Address   string    `json:"address,omitempty"`
	Key       string    `json:"key"` // that was remembered
	FirstSeen time.Time `json:"first_seen"`
}

// forget makes the next contact with a domain's server, or with an address, a first one.
func (r *run) forget(ctx context.Context, arg string) error {
	h, err := newHome(r.Getenv)
	if err != nil {
		return err
	}
	if strings.Contains(arg, "@") {
		return r.forgetContact(ctx, h, arg)
	}
	d, err := address.ParseDomain(arg)
	if err != nil {
		return err
	}
	if err := h.make(); err != nil {
		return err
	}
	known := newKnownServers(h.data, r.Now)
	was, err := known.forget(ctx, d.String())
	if err != nil {
		return err
	}
	return r.report(ForgetReport{Domain: d.String(), Key: was.Key, FirstSeen: was.FirstSeen}, func(out *bytes.Buffer) {
		fmt.Fprintf(out, "The key of %s's server is forgotten (%s). The next contact is a first one.\n", d, fingerprint(was.Key))
	})
}

func (r *run) forgetContact(ctx context.Context, h home, arg string) error {
	a, err := address.Parse(arg)
	if err != nil {
		return err
	}
	if err := h.make(); err != nil {
		return err
	}
	known := newContacts(h.data, r.Now)
	was, err := known.forget(ctx, a.String())
	if err != nil {
		return err
	}
	return r.report(ForgetReport{Address: a.String(), Key: was.Key, FirstSeen: was.FirstSeen}, func(out *bytes.Buffer) {
		fmt.Fprintf(out, "The key of %s is forgotten (%s). The next contact is a first one.\n", a, fingerprint(was.Key))
	})
}
