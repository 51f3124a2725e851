package shorebird

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A finder looks up keys for the user of an account: those of other domains at the
// account's own server, which answers about them to its users (docs/protocol.md section
// 19.1).
type finder struct {
	*network
	run     *run
	home    home
	account address.Address // zero: every server is asked directly
	direct  bool            // so it is because the user wants it
	fresh   bool            // answers from the server's memory will not do
	desk    *desk           // of the account, once it had to be proven
}

// told is who has answered in the place of another domain's server.
type told struct {
	by      address.Domain
	key     crypt.PublicKey // by's server
	vouched Voucher
}

// finder returns how a user asks who writes from this address.
func (r *run) finder(n *network, h home, from address.Address, direct bool) *finder {
	account := from
	account.Account = from.Account.Base()
	if own := n.settings.Account; !own.IsZero() && !h.hasKeys(account) && h.hasKeys(own) {
		account = own // from may be an alias
	}
	return &finder{network: n, run: r, home: h, account: account, direct: direct}
}

// abroad reports whether the account's own server is to be asked about a domain.
func (f *finder) abroad(d address.Domain) bool {
	if f.direct || f.account.IsZero() || f.account.Domain == d {
		return false
	}
	if _, named := f.settings.Servers[d.String()]; named {
		return false
	}
	_, err := f.server(f.account.Domain)
	return err == nil
}

// find is lookup by the way that is right for the address.
func (f *finder) find(ctx context.Context, a address.Address) (*answer, error) {
	if !f.abroad(a.Domain) {
		return f.lookup(ctx, a)
	}
	p, _, err := f.domain(ctx, f.account.Domain)
	if err != nil {
		return nil, f.misplaced(a.Domain, err)
	}
	if p.channel == nil {
		return f.lookup(ctx, a)
	}
	history, foreign, err := p.channel.Either(a)
	if hasStatus(err, cmtp.StatusNotProven) && p.user.IsZero() {
		if p, err = f.signIn(ctx); err != nil {
			return nil, err
		}
		history, foreign, err = p.channel.Either(a)
	}
	if f.fresh && history == nil && (err == nil || isStatus(err)) {
		history, foreign, err = p.channel.Either(a) // which is not answered from memory (docs/protocol.md section 19.1)
	}
	if err != nil {
		if !isStatus(err) {
			f.drop(p.where)
		}
		return nil, advised(a.Domain, err)
	}
	p.used = f.now()
	found := &answer{address: a, where: p.where, history: history}
	if foreign == nil {
		err = f.housemate(ctx, p, found)
	} else {
		err = f.stranger(ctx, p, found, foreign)
	}
	if err != nil {
		return nil, err
	}
	return f.acquaint(ctx, found)
}

// signIn returns the account's own server, in a channel in which the account is proven.
func (f *finder) signIn(ctx context.Context) (*peer, error) {
	if f.desk == nil {
		d, err := f.run.desk(ctx, f.network, f.home, f.account)
		if err != nil {
			return nil, err
		}
		f.desk = d
	}
	return f.desk.proven(ctx)
}

// housemate completes an answer about another domain of the account's own server, which
// is judged as that domain's, too.
func (f *finder) housemate(ctx context.Context, p *peer, found *answer) error {
	known, err := f.known.load()
	if err != nil {
		return err
	}
	found.key, found.server = found.history.Current().Key, p.key
	d := found.address.Domain
	if found.trust, err = f.judge(ctx, d, p, known); err != nil {
		return err
	}
	return f.meet(ctx, d, p, found.trust)
}

// stranger completes an answer about another server's name. That server must be the one
// that is remembered, or one that this one has named, whoever vouches for it: the user's
// own server could be wrong, or lie. What was told is remembered from then on.
func (f *finder) stranger(ctx context.Context, p *peer, found *answer, foreign *crypt.Foreign) error {
	d := found.address.Domain
	known, err := f.known.load()
	if err != nil {
		return err
	}
	was := known[d.String()]
	if was.CMTP1 && foreign.Part() == 1 {
		return hint(fmt.Errorf("%s: %w", d, client.ErrDowngrade), "This domain's server has spoken CMTP 1 before, and now your own server says that it does not. Nothing was sent. Ask your server's operator.")
	}
	found.told = &told{f.account.Domain, p.key, voucher(foreign.Trust)}
	found.key, found.server, found.history = foreign.Current(), foreign.Server, foreign.History
	found.trust, err = compare(known, d, foreign.Server)
	if errors.Is(err, errKeyChanged) {
		found.trust, err = f.successor(ctx, d, p, foreign, was.Key, f.contradicted(found, err))
	}
	if err != nil {
		return err
	}
	if found.trust == Remembered && found.told.vouched.rank() < was.Vouched.rank() {
		f.note("Your server vouches less for the key of %s's server than before: it was %s, and is %s.", d, was.Vouched.short(), found.told.vouched.short())
	}
	now := knownServer{was.Key, was.FirstSeen, was.CMTP1 || foreign.Part() == 2, found.told.by.String(), found.told.vouched}
	if found.trust == Remembered && now == was {
		return nil
	}
	return f.known.recall(ctx, d, foreign.Server, func(s *knownServer) {
		s.CMTP1, s.ToldBy, s.Vouched = s.CMTP1 || now.CMTP1, now.ToldBy, now.Vouched
	})
}

// successor asks, by way of the user's own server, whether the remembered key of another
// server has named the one that is told. Else changed is what is wrong.
func (f *finder) successor(ctx context.Context, d address.Domain, p *peer, now *crypt.Foreign, was string, changed error) (Trust, error) {
	key, ok := parseKey(was)
	if !ok || now.History == nil {
		return "", changed
	}
	self, err := p.channel.Foreign(address.Address{Domain: d})
	if client.Temporary(err) {
		return "", advised(d, err)
	}
	if err != nil || self.Server != now.Server || self.History == nil || !self.History.Follows(key) {
		return "", changed
	}
	return f.succeed(ctx, d, was, now.Server)
}

// contradicted says of a changed key who told it.
func (f *finder) contradicted(a *answer, err error) error {
	d := a.address.Domain
	return hint(fmt.Errorf("%w\n  told by     your own server, of %s; vouched for by %s", err, a.told.by, a.told.vouched.short()),
		fmt.Sprintf("Either the server of %[1]s was set up anew, or somebody is between your server and it, or your server does not tell the truth. Nothing was sent. "+
			"Ask the operator of %[1]s, by other means, for the fingerprint. If the new one is right: shorebird keys --forget %[1]s, and then again.", d))
}

// misplaced adds to an error of the account's own server what may be behind it when its
// place comes from the command line.
func (f *finder) misplaced(d address.Domain, err error) error {
	if f.flag == "" || !errors.Is(err, errKeyChanged) {
		return err
	}
	return hint(err, fmt.Sprintf("--server is the place of your own server, of %s. If this is the server of %s: add --direct. %s", f.account.Domain, d, diagnose(err).Hint))
}

// advised adds to a refusal what it means when one's own server gives it about another
// domain.
func advised(d address.Domain, err error) error {
	var status *cmtp.StatusError
	if !errors.As(err, &status) {
		return err
	}
	advice := map[cmtp.Status]string{
		cmtp.StatusPeerUnreached: "Your server cannot reach the server of %[1]s now, or that one has a trouble. Nothing was sent; try again later.",
		cmtp.StatusPeerDistrusted: "Your server does not trust the key that the server of %[1]s shows now. Nothing was sent. Try again later; " +
			"your server's operator sees why with cmtpd trust show %[1]s.",
		cmtp.StatusNoMail:        "%[1]s has no mail of this kind, or does not exist: check the address. Nothing was sent.",
		cmtp.StatusNoAccount:     "The server of %[1]s knows no such account: check the address.",
		cmtp.StatusForeignDomain: "Your own server does not write to other domains. Ask its operator; or name the server of %[1]s in the configuration file under [servers], or with --server and --direct.",
	}[status.Status]
	if advice == "" {
		return err
	}
	return hint(err, fmt.Sprintf(advice, d))
}

// Voucher is what vouches for the key of another server, as one's own one tells.
type Voucher string

// What may vouch, the weakest first (docs/protocol.md section 19.1).
const (
	VouchedFirstContact Voucher = "first_contact"
	VouchedDNS          Voucher = "dns"
	VouchedDNSSEC       Voucher = "dnssec"
	VouchedOperator     Voucher = "operator"
)

var vouchers = []Voucher{VouchedFirstContact, VouchedDNS, VouchedDNSSEC, VouchedOperator}

// voucher returns the word for a trust that was parsed, and so is one of the four.
func voucher(t crypt.Trust) Voucher { return vouchers[t-crypt.TrustFirstContact] }

// rank orders vouchers; what was never told has -1.
func (v Voucher) rank() int { return slices.Index(vouchers, v) }

// short names who vouches, within a sentence.
func (v Voucher) short() string {
	return map[Voucher]string{
		VouchedFirstContact: "nobody", VouchedDNS: "DNS", VouchedDNSSEC: "DNSSEC", VouchedOperator: "your server's operator",
	}[v]
}

// words says to a person what a voucher is worth.
func (v Voucher) words() string {
	return v.short() + map[Voucher]string{
		VouchedFirstContact: ": your server took the key that was there when it first met that server",
		VouchedDNS:          ": the domain's records name the key, and nothing proves that these are not forged",
		VouchedDNSSEC:       ": the domain's signed records name the key",
		VouchedOperator:     ", who has accepted the key by hand",
	}[v]
}

// told is words of a trust in a server that one's own one has told of.
func (t Trust) told() string {
	if t == FirstContact {
		return "first contact: you have not met this server before; it is remembered from now on"
	}
	return t.words()
}
