package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/terminal"
)

// A ContactTrust says in one word, or two, how far the key that is remembered of an address can be trusted.
type ContactTrust string

// The words, the worst first. Who vouches for a domain's server vouches for the keys that it has signed.
const (
	TrustChanged      ContactTrust = "changed"       // another key was shown, which does not follow: nothing is sent
	TrustFirstContact ContactTrust = "first contact" // seen once; nobody vouches for it
	TrustRemembered   ContactTrust = "remembered"    // the same as before, or accepted by the user
	TrustDNSSEC       ContactTrust = "DNSSEC"        // the domain's signed records name its server's key
	TrustOperator     ContactTrust = "operator"      // the operator of the user's own server has accepted that key
)

func trustOf(c contact, s knownServer) ContactTrust {
	switch {
	case c.Refused != "":
		return TrustChanged
	case s.Vouched == VouchedOperator:
		return TrustOperator
	case s.Vouched == VouchedDNSSEC:
		return TrustDNSSEC
	case c.Again:
		return TrustRemembered
	}
	return TrustFirstContact
}

func (t ContactTrust) colour() terminal.Colour {
	return map[ContactTrust]terminal.Colour{TrustChanged: terminal.Red, TrustFirstContact: terminal.Yellow, TrustRemembered: terminal.Green, TrustDNSSEC: terminal.Green, TrustOperator: terminal.Green}[t]
}

// words says to a person what it means.
func (t ContactTrust) words() string {
	return map[ContactTrust]string{
		TrustChanged:      "another key was shown, for which this one has not signed; nothing is sent until you accept it",
		TrustFirstContact: "seen once, and nobody vouches for it",
		TrustRemembered:   "the key that you have met before, or accepted",
		TrustDNSSEC:       "the domain's signed records name its server's key, as your server says",
		TrustOperator:     "your server's operator has accepted the key of the domain's server by hand",
	}[t]
}

// TrustReport is what trust show and trust accept print with --json, and, in a list, what
// trust list prints.
type TrustReport struct {
	Address     string       `json:"address"`
	Trust       ContactTrust `json:"trust"`
	Key         string       `json:"key"`
	Fingerprint string       `json:"fingerprint"`
	FirstSeen   time.Time    `json:"first_seen"`
	// SafetyWords are read to each other by the user and the owner of the address; absent where
	// the user's own key is not known.
	SafetyWords string `json:"safety_words,omitempty"`
	// Of a key that was shown in its place, and refused.
	Refused            string `json:"refused,omitempty"`
	RefusedFingerprint string `json:"refused_fingerprint,omitempty"`
	RefusedSafetyWords string `json:"refused_safety_words,omitempty"`

	Accepted bool `json:"accepted,omitempty"` // just now
}

// TrustListReport is what trust list prints with --json.
type TrustListReport struct {
	Contacts []TrustReport `json:"contacts"`
}

type trustOptions struct {
	account, fingerprint string
	direct               bool
}

func (r *run) trustCommand() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use: "trust", Short: "See how far the keys of others can be trusted, and accept a changed one",
		Long: "trust shows in one word how far the key that is remembered of an address can be trusted:\n\n" +
			"    first contact  seen once, and nobody vouches for it\n" +
			"    remembered     the same as before, or accepted by you\n" +
			"    DNSSEC         signed records of the domain name its server's key\n" +
			"    operator       your server's operator has accepted that server's key\n" +
			"    changed        another key was shown, for which the one before has not signed\n\n" +
			"A changed key stops sending until you accept it. trust show has 12 words that you and the\n" +
			"owner of the address can read to each other, on the telephone for instance: they are the\n" +
			"same on both sides exactly when nobody has put another key in between.",
	}
	list := &cobra.Command{
		Use: "list", Short: "List the addresses whose keys are remembered", Args: cobra.NoArgs,
		RunE: r.action(func(ctx context.Context, _ []string) error { return r.trustList() }),
	}
	show := &cobra.Command{
		Use: "show ADDRESS", Short: "Show what is remembered of an address, and the words to compare", Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.trustShow(ctx, args[0], o) }),
	}
	accept := &cobra.Command{
		Use: "accept ADDRESS", Short: "Accept the changed key of an address, after a comparison",
		Long: "accept asks for the key that ADDRESS has now. Where it does not follow from the one that is\n" +
			"remembered, it shows both, and words that the owner of ADDRESS sees, too, with shorebird\n" +
			"trust show and your address. Once you say that they are the same, the new key is\n" +
			"remembered. Scripts give the new key's --fingerprint, and are not asked.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.trustAccept(ctx, args[0], o) }),
	}
	accept.Flags().StringVar(&o.fingerprint, "fingerprint", "", "accept the key with this `FINGERPRINT` and no other, without a question")
	r.directFlag(accept, &o.direct)
	for _, c := range []*cobra.Command{show, accept} {
		c.Flags().StringVar(&o.account, "account", "", "your own `ADDRESS`, instead of the configuration's account")
		r.passwordFlag(c)
	}
	return group(c, list, show, accept)
}

// remembers returns all that is remembered of contacts and servers.
func (h home) remembers(now func() time.Time) (map[string]contact, map[string]knownServer, error) {
	met, err := newContacts(h.data, now).load()
	if err != nil {
		return nil, nil, err
	}
	servers, err := newKnownServers(h.data, now).load()
	return met, servers, err
}

func newTrustReport(name string, c contact, servers map[string]knownServer) TrustReport {
	_, domain, _ := strings.Cut(name, "@")
	v := TrustReport{Address: name, Trust: trustOf(c, servers[domain]), Key: c.Key, Fingerprint: fingerprint(c.Key), FirstSeen: c.FirstSeen}
	if c.Refused != "" {
		v.Refused, v.RefusedFingerprint = c.Refused, fingerprint(c.Refused)
	}
	return v
}

func (r *run) trustList() error {
	h, err := newHome(r.Getenv)
	if err != nil {
		return err
	}
	met, servers, err := h.remembers(r.Now)
	if err != nil {
		return err
	}
	v := TrustListReport{Contacts: []TrustReport{}}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		if a, err := address.Parse(name); err == nil && h.hasKeys(a) {
			continue // one's own account is no contact
		}
		v.Contacts = append(v.Contacts, newTrustReport(name, met[name], servers))
	}
	return r.report(v, func(out *bytes.Buffer) {
		for _, c := range v.Contacts {
			word := r.Paint(r.Getenv, c.Trust.colour(), string(c.Trust)) + strings.Repeat(" ", len(TrustFirstContact)-len(c.Trust))
			fmt.Fprintf(out, "%s  %s  %s  %s\n", word, c.FirstSeen.Format(time.DateOnly), c.Fingerprint, terminal.OneLine(c.Address))
		}
		if len(v.Contacts) == 0 {
			out.WriteString("No keys are remembered yet.\n")
		}
	})
}

// trusted returns what is remembered of an address, or of the one that it is a part of.
func (r *run) trusted(ctx context.Context, h home, a address.Address, own crypt.PublicKey) (*TrustReport, error) {
	met, servers, err := h.remembers(r.Now)
	if err != nil {
		return nil, err
	}
	base := a
	base.Account = base.Account.Base()
	for _, name := range []address.Address{a, base} {
		if c, ok := met[name.String()]; ok {
			v := newTrustReport(name.String(), c, servers)
			v.spell(own)
			return &v, nil
		}
	}
	return nil, hint(fmt.Errorf("%s: %w", a, errUnknown), fmt.Sprintf("shorebird keys %s asks for it.", shellWord(a.String())))
}

// spell adds the words that can be compared.
func (v *TrustReport) spell(own crypt.PublicKey) {
	if own == (crypt.PublicKey{}) {
		return
	}
	if key, ok := parseKey(v.Key); ok {
		v.SafetyWords = safetyWords(own, key)
	}
	if key, ok := parseKey(v.Refused); ok {
		v.RefusedSafetyWords = safetyWords(own, key)
	}
}

// account returns the user's own address for these options; zero where none is known.
func (o *trustOptions) own(s *settings) (address.Address, error) {
	if o.account == "" {
		return s.Account, nil
	}
	a, err := address.Parse(o.account)
	if err != nil {
		err = fmt.Errorf("--account: %w", err)
	}
	return a, err
}

// ownKey returns the account's public key: as it was when the account was used last, or else of the keys on
// this machine, which are opened for it. It is zero where there are none.
func (r *run) ownKey(ctx context.Context, h home, a address.Address) (key crypt.PublicKey, err error) {
	if a.IsZero() {
		return key, nil
	}
	a.Account = a.Account.Base()
	known, err := newAccounts(h.data).load()
	if err != nil {
		return key, err
	}
	if key, ok := parseKey(known[a.String()].Key); ok {
		return key, nil
	}
	held, err := r.held(ctx, h, a)
	if errors.Is(err, errNoKeys) {
		return key, nil
	}
	if err != nil {
		return key, err
	}
	defer held.ring.Wipe()
	return held.ring.Keys[0].Key.Public(), nil
}

func (r *run) trustShow(ctx context.Context, arg string, o trustOptions) error {
	a, err := address.Parse(arg)
	if err != nil {
		return err
	}
	h, s, err := r.home()
	if err != nil {
		return err
	}
	account, err := o.own(s)
	if err != nil {
		return err
	}
	own, err := r.ownKey(ctx, h, account)
	if err != nil {
		return err
	}
	v, err := r.trusted(ctx, h, a, own)
	if err != nil {
		return err
	}
	return r.report(v, func(out *bytes.Buffer) { r.showTrust(out, v) })
}

func (r *run) showTrust(out *bytes.Buffer, v *TrustReport) {
	rows := [][2]string{{"address", v.Address}, {"trust", string(v.Trust) + ": " + v.Trust.words()}, {"key", v.Fingerprint},
		{"since", v.FirstSeen.Format(time.DateOnly)}}
	if v.SafetyWords != "" {
		rows = append(rows, [2]string{"safety words", v.SafetyWords})
	}
	if v.Refused != "" {
		rows = append(rows, [2]string{"changed key", v.RefusedFingerprint})
		if v.RefusedSafetyWords != "" {
			rows = append(rows, [2]string{"safety words with it", v.RefusedSafetyWords})
		}
	}
	var text bytes.Buffer
	r.Fields(&text, rows)
	s := text.String() // nothing is painted before it was made fit to show
	if r.Room() > 0 {
		s = strings.Replace(s, "  "+string(v.Trust)+":", "  "+r.Paint(r.Getenv, v.Trust.colour(), string(v.Trust))+":", 1)
	}
	out.WriteString(s)
	if v.SafetyWords == "" {
		r.note("Which of your own keys to compare with is not known: say who you are with --account ADDRESS.")
	}
}

func (r *run) trustAccept(ctx context.Context, arg string, o trustOptions) error {
	a, err := address.Parse(arg)
	if err != nil {
		return err
	}
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	account, err := o.own(n.settings)
	if err != nil {
		return err
	}
	f := r.finder(n, h, account, o.direct)
	f.fresh = true
	_, changed := f.find(ctx, a)
	if changed != nil && !errors.Is(changed, errContactKey) && !errors.Is(changed, errContactReset) {
		return changed
	}
	own, err := r.ownKey(ctx, h, account)
	if err != nil {
		return err
	}
	v, err := r.trusted(ctx, h, a, own)
	if err != nil {
		return err
	}
	if changed == nil {
		r.note("The key of %s is the one that is remembered: there is nothing to accept.", v.Address)
		return r.report(v, func(out *bytes.Buffer) { r.showTrust(out, v) })
	}
	key, ok := parseKey(v.Refused)
	if !ok {
		return changed
	}
	if err := r.agree(ctx, v, o.fingerprint); err != nil {
		return err
	}
	n.accept, n.only = true, key
	if _, err := f.find(ctx, a); err != nil {
		return err
	}
	if v, err = r.trusted(ctx, h, a, own); err != nil {
		return err
	}
	v.Accepted = true
	return r.report(v, func(out *bytes.Buffer) {
		fmt.Fprintf(out, "The key of %s is accepted: %s\n", v.Address, v.Fingerprint)
	})
}

// errNotAgreed: the user has not said that the new key is right.
var errNotAgreed = kind{"the changed key was not accepted", errTrust}

// agree has a person compare the changed key, or a script name it.
func (r *run) agree(ctx context.Context, v *TrustReport, given string) error {
	if given != "" {
		squeeze := func(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), "")) }
		if squeeze(given) != squeeze(v.RefusedFingerprint) {
			return hint(fmt.Errorf("%s: %w: its fingerprint is %s", v.Address, errNotAgreed, v.RefusedFingerprint), "Nothing was changed.")
		}
		return nil
	}
	if r.ReadLine == nil {
		return hint(kind{"there is no terminal at which to compare the keys", errMissing}, "Name the key that is right with --fingerprint.")
	}
	var out bytes.Buffer
	r.showTrust(&out, v)
	r.Err.Write(out.Bytes())
	typed, err := r.ReadLine(ctx, fmt.Sprintf("Has %s read the same words, or the same key, to you, by other means? Type yes to accept it: ", v.Address))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if !strings.EqualFold(strings.TrimSpace(string(typed)), "yes") {
		return hint(fmt.Errorf("%s: %w", v.Address, errNotAgreed), "Nothing was changed, and nothing is sent there.")
	}
	return nil
}
