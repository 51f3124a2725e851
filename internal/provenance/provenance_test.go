package provenance_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/provenance"
)

const hour = 3600

var (
	digest = [32]byte{1, 2, 3}
	header = cmtp.Header{SourceAccount: "Alice", SourceDomain: "A.Example."}
)

func named(s string) address.Address {
	if d, ok := strings.CutPrefix(s, "@"); ok {
		domain, err := address.ParseDomain(d)
		if err != nil {
			panic(err)
		}
		return address.Address{Domain: domain}
	}
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

func key(seed byte) *crypt.PrivateKey {
	k, err := crypt.PrivateKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), crypt.SeedSize)))
	if err != nil {
		panic(err)
	}
	return k
}

func sender(source string, at crypt.UnixTime, k *crypt.PrivateKey, d [32]byte) string {
	s := crypt.NewSender(d, named(source), at, k)
	return s.String()
}

func origin(source string, k *crypt.PrivateKey, d [32]byte) string {
	o := crypt.NewOrigin(d, named(source), 5, k)
	return o.String()
}

func log(entries ...string) (b []byte) {
	for _, e := range entries {
		b = append(b, e+"\x00"...)
	}
	return b
}

func TestSenderOf(t *testing.T) {
	const alice = "alice@a.example"
	good := sender(alice, 5, key(0), digest)
	for what, tt := range map[string]struct {
		header cmtp.Header
		log    []byte
		found  bool
		err    error
	}{
		"None":          {header, log("received x", "senders", "Sender x"), false, nil},
		"NoLog":         {header, nil, false, nil},
		"EmptyLog":      {header, []byte{0}, false, nil},
		"One":           {header, log("x", good, "y"), true, nil},
		"Two":           {header, log(good, good), false, provenance.ErrSender},
		"WordAlone":     {header, log("sender"), false, provenance.ErrSender},
		"Malformed":     {header, log(good + " "), false, provenance.ErrSender},
		"OtherAccount":  {header, log(sender("bob@a.example", 5, key(0), digest)), false, provenance.ErrSender},
		"OtherDomain":   {header, log(sender("alice@b.example", 5, key(0), digest)), false, provenance.ErrSender},
		"Server":        {cmtp.Header{SourceDomain: "a.example"}, log(good), false, provenance.ErrSender},
		"NoSource":      {cmtp.Header{SourceAccount: "a@b", SourceDomain: "a.example"}, log(good), false, provenance.ErrSender},
		"NoSourceNoLog": {cmtp.Header{SourceAccount: "a@b", SourceDomain: "a.example"}, nil, false, nil},
	} {
		t.Run(what, func(t *testing.T) {
			s, err := provenance.SenderOf(&tt.header, tt.log)
			if (s != nil) != tt.found || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	const at = 1000 * hour
	first, second, third, other := key(0), key(1), key(2), key(3)
	k := func(k *crypt.PrivateKey, from crypt.UnixTime) provenance.Key {
		return provenance.Key{PublicKey: k.Public(), From: from}
	}
	reset := k(third, at)
	reset.Reset = true
	chain := []provenance.Key{k(first, 0), k(second, at), k(third, 2*at)}
	for what, tt := range map[string]struct {
		signer *crypt.PrivateKey
		when   crypt.UnixTime
		keys   []provenance.Key
		want   int
		err    error
	}{
		"Newest":            {third, 3 * at, chain, 2, nil},
		"Former":            {second, at + at/2, chain, 1, nil},
		"First":             {first, 5, chain, 0, nil},
		"AtTheTwoClocks":    {third, 2*at - 2*hour, chain, 2, nil},
		"BeforeTheTwo":      {third, 2*at - 2*hour - 1, chain, 0, provenance.ErrLapsed},
		"AfterItWasLeft":    {second, 2*at + 2*hour, chain, 1, nil},
		"LongAfter":         {second, 2*at + 2*hour + 1, chain, 0, provenance.ErrLapsed},
		"Unknown":           {other, at, chain, 0, provenance.ErrUnknownKey},
		"NoKeys":            {first, at, nil, 0, provenance.ErrUnknownKey},
		"BeforeReset":       {second, at / 2, []provenance.Key{k(second, 0), reset}, 0, provenance.ErrLapsed},
		"AfterReset":        {third, at, []provenance.Key{k(second, 0), reset}, 1, nil},
		"ResetBetween":      {first, 5, []provenance.Key{k(first, 0), reset, k(second, 2*at)}, 0, provenance.ErrLapsed},
		"TimesNotKnown":     {first, 9 * at, []provenance.Key{k(first, 0), k(second, 0)}, 0, nil},
		"BackToTheFirst":    {first, 3 * at, []provenance.Key{k(first, 0), k(second, at), k(first, 2*at)}, 2, nil},
		"BackEarlier":       {first, at / 2, []provenance.Key{k(first, 0), k(second, at), k(first, 2*at)}, 0, nil},
		"BackInBetween":     {first, at + at/2, []provenance.Key{k(first, 0), k(second, at), k(first, 2*at)}, 0, provenance.ErrLapsed},
		"BackBeforeItReset": {second, at / 2, []provenance.Key{k(second, 0), reset, k(second, 2*at)}, 0, provenance.ErrLapsed},
	} {
		t.Run(what, func(t *testing.T) {
			s := crypt.NewSender(digest, named("alice@a.example"), tt.when, tt.signer)
			got, err := provenance.Check(&s, digest, tt.keys)
			if got != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%d, %v", got, err)
			}
			if _, err := provenance.Check(&s, [32]byte{9}, tt.keys); err == nil || tt.err == nil && !errors.Is(err, provenance.ErrForged) {
				t.Errorf("it is one for another message: %v", err)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	const at = 1720000000
	const alice = "alice@a.example"
	own, former, server, eve := key(0), key(1), key(2), key(3)
	byOwn, byFormer, byEve := sender(alice, at, own, digest), sender(alice, at-9*hour, former, digest), sender(alice, at, eve, digest)
	vouched := origin(alice, server, digest)
	whole := provenance.Known{Whole: true, Servers: []crypt.PublicKey{server.Public()}, Keys: []provenance.Key{
		{PublicKey: former.Public()}, {PublicKey: own.Public(), From: at - 6*hour}}}
	met := provenance.Known{Servers: whole.Servers, Keys: whole.Keys[1:]}
	for what, tt := range map[string]struct {
		header cmtp.Header
		log    []byte
		known  provenance.Known
		kind   provenance.Kind
		text   string
		key    *crypt.PrivateKey
	}{
		"Nothing":             {header, nil, whole, provenance.Unproven, "nothing that is signed", nil},
		"NoAddress":           {cmtp.Header{SourceAccount: "a@b"}, log(byOwn, vouched), whole, provenance.Unproven, "no address", nil},
		"OwnKey":              {header, log(byOwn), whole, provenance.BySender, "submitted by " + alice + ", whose key", own},
		"OwnKeyMet":           {header, log(byOwn), met, provenance.BySender, "whose key", own},
		"Both":                {header, log(byOwn, "received x", vouched), whole, provenance.BySender, "whose key", own},
		"OwnKeyOtherServer":   {header, log(byOwn, origin(alice, eve, digest)), whole, provenance.BySender, "whose key", own},
		"FormerKey":           {header, log(byFormer), whole, provenance.BySender, "a key that it had until 2024-07-03", former},
		"FormerKeyMet":        {header, log(byFormer), met, provenance.Unproven, "another key than the one that is remembered", nil},
		"FormerKeyLater":      {header, log(sender(alice, at, former, digest)), whole, provenance.Unproven, "not in force", nil},
		"Domain":              {header, log("received x", vouched), whole, provenance.ByDomain, "as the server of a.example says", server},
		"Server":              {cmtp.Header{SourceDomain: "a.example"}, log(origin("@a.example", server, digest)), whole, provenance.ByDomain, "from the server of a.example itself", server},
		"DomainNotKnown":      {header, log(vouched), provenance.Known{}, provenance.Unproven, "may vouch for it", nil},
		"DomainOtherKey":      {header, log(origin(alice, eve, digest)), whole, provenance.Unproven, "another key than the one that is known of the server", nil},
		"DomainCut":           {header, log(origin(alice, server, [32]byte{9})), whole, provenance.Unproven, "another key", nil},
		"DomainOtherAccount":  {header, log(origin("bob@a.example", server, digest)), whole, provenance.Unproven, "another key", nil},
		"KeyNotKnown":         {header, log(byOwn), provenance.Known{Servers: whole.Servers}, provenance.Unproven, "is not known here", nil},
		"KeyNotKnownDomain":   {header, log(byOwn, vouched), provenance.Known{Servers: whole.Servers}, provenance.ByDomain, "but it is signed, and the key", server},
		"EvesKey":             {header, log(byEve), whole, provenance.Unproven, "not known to have", nil},
		"EvesKeyMet":          {header, log(byEve), met, provenance.Unproven, "another key than the one", nil},
		"EvesKeyDomain":       {header, log(byEve, vouched), whole, provenance.ByDomain, "; but it is signed with a key that " + alice + " is not known to have", server},
		"EvesKeyEvesDomain":   {header, log(byEve, origin(alice, eve, digest)), whole, provenance.Unproven, "not known to have", nil},
		"SenderCut":           {header, log(sender(alice, at, own, [32]byte{9})), whole, provenance.False, "FALSE", nil},
		"SenderCutDomain":     {header, log(sender(alice, at, own, [32]byte{9}), vouched), whole, provenance.False, "FALSE", nil},
		"SenderTwice":         {header, log(byOwn, byOwn), whole, provenance.False, "FALSE", nil},
		"SenderMalformed":     {header, log("sender x", vouched), whole, provenance.False, "FALSE", nil},
		"SenderOfAnother":     {header, log(sender("bob@a.example", at, own, digest)), whole, provenance.False, "FALSE", nil},
		"OriginTwice":         {header, log(byOwn, vouched, vouched), whole, provenance.False, "FALSE", nil},
		"OriginMalformed":     {header, log("origin"), whole, provenance.False, "FALSE", nil},
		"OriginOfAnother":     {header, log(origin("alice@b.example", server, digest)), whole, provenance.False, "FALSE", nil},
		"EvilEntries":         {header, log("sender a=\x1b[2J", "origin d=\u202e"), whole, provenance.False, "FALSE", nil},
		"EvilAndNothingKnown": {header, log("sender \x1b[2J"), provenance.Known{}, provenance.False, "FALSE", nil},
	} {
		t.Run(what, func(t *testing.T) {
			v := provenance.Judge(&tt.header, tt.log, digest, tt.known)
			var want crypt.PublicKey
			if tt.key != nil {
				want = tt.key.Public()
			}
			if v.Kind != tt.kind || !strings.Contains(v.Text, tt.text) || v.Key != want {
				t.Errorf("%+v, want %s with %q", v, tt.kind, tt.text)
			}
			if strings.ContainsAny(v.Text, "\x1b\n\u202e") || strings.Contains(v.Text, "written by") {
				t.Errorf("it says %q", v.Text)
			}
		})
	}
}

// Only an account's own keys, in the order of its history, are what its history says.
func TestKeysOf(t *testing.T) {
	first, second := key(0), key(1)
	a := crypt.KeyStatement{Name: named("alice@a.example"), Key: first.Public(), NotBefore: 5}
	b := a.Follow(second.Public(), 9)
	b.Reset = true
	got := provenance.KeysOf(&crypt.History{Keys: []crypt.SignedKey{{KeyStatement: a}, {KeyStatement: b}}})
	want := []provenance.Key{{PublicKey: first.Public(), From: 5}, {PublicKey: second.Public(), From: 9, Reset: true}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v", got)
	}
	if provenance.Skew != 2*time.Hour {
		t.Error("the document says two hours")
	}
}
