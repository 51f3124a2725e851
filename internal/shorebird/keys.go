package shorebird

import (
	"bytes"
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"cmtpd/internal/address"
)

// KeysReport is what keys prints with --json.
type KeysReport struct {
	Address           string `json:"address"`
	Key               string `json:"key"`
	Fingerprint       string `json:"fingerprint"`
	Server            string `json:"server"` // host:port
	ServerKey         string `json:"server_key"`
	ServerFingerprint string `json:"server_fingerprint"`
	Trust             Trust  `json:"trust"`
}

func (a *answer) report() KeysReport {
	return KeysReport{
		Address: a.address.String(), Key: base64Key(a.key), Fingerprint: a.key.String(),
		Server: a.where, ServerKey: base64Key(a.server), ServerFingerprint: a.server.String(), Trust: a.trust,
	}
}

// words says to a person what a trust means.
func (t Trust) words() string {
	if t == FirstContact {
		return "first contact: nobody vouches for this server yet; it is remembered from now on"
	}
	return "remembered: the server has the key that it had before"
}

func (r *run) keys(ctx context.Context, arg string) error {
	addr, err := address.Parse(arg)
	if err != nil {
		return err
	}
	n, _, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	a, err := n.lookup(ctx, addr)
	if err != nil {
		return err
	}
	v := a.report()
	return r.report(v, func(out *bytes.Buffer) {
		table(out, [][2]string{
			{"address", v.Address}, {"key", v.Key}, {"fingerprint", v.Fingerprint},
			{"server", v.Server}, {"server key", v.ServerKey}, {"server fingerprint", v.ServerFingerprint},
			{"trust", a.trust.words()},
		})
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

// ForgetReport is what keys --forget prints with --json.
type ForgetReport struct {
	Domain    string    `json:"domain"`
	Key       string    `json:"key"` // that was remembered
	FirstSeen time.Time `json:"first_seen"`
}

func (r *run) forget(ctx context.Context, arg string) error {
	d, err := address.ParseDomain(arg)
	if err != nil {
		return err
	}
	h, err := newHome(r.Getenv)
	if err != nil {
		return err
	}
	if err := h.make(); err != nil {
		return err
	}
	known := knownServers{h.data, r.Now}
	was, err := known.forget(ctx, d)
	if err != nil {
		return err
	}
	return r.report(ForgetReport{d.String(), was.Key, was.FirstSeen}, func(out *bytes.Buffer) {
		fmt.Fprintf(out, "The key of %s's server is forgotten (%s). The next contact is a first one.\n", d, fingerprint(was.Key))
	})
}
