package crypt_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

var update = flag.Bool("update", false, "write testdata/cmtp-1.json anew from the tests' own encoder")

const statementsFile = "../../testdata/cmtp-1.json"

// MarshalText writes hex.
func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// signedVector is a statement and who signs it.
type signedVector struct {
	Statement  hexBytes            `json:"statement"`
	Signatures map[string]hexBytes `json:"signatures"` // by the name of the key
}

// statementVectors are testdata/cmtp-1.json.
type statementVectors struct {
	About         string                 `json:"about"`
	Keys          map[string]keyOfPeople `json:"keys"`
	KeyStatements []keyStatementVector   `json:"key_statements"`
	Alias         aliasVector            `json:"alias"`
	Rotation      rotationVector         `json:"rotation"`
	Histories     []historyVector        `json:"histories"`
	Receipt       receiptVector          `json:"receipt"`
	Origin        entryVector            `json:"origin"`
	Senders       []entryVector          `json:"senders"`
	Proofs        []proofVector          `json:"proofs"`
	Received      receivedVector         `json:"received"`
	Foreign       []foreignVector        `json:"foreign"`
}

type keyOfPeople struct {
	Seed   hexBytes `json:"ed25519_seed"`
	Public hexBytes `json:"ed25519_public"`
	ID     hexBytes `json:"key_id"`
}

type keyStatementVector struct {
	Name      string         `json:"name"`
	Domain    address.Domain `json:"domain"`
	Account   string         `json:"account"`
	Key       hexBytes       `json:"key"`
	NotBefore crypt.UnixTime `json:"not_before"`
	Reset     bool           `json:"reset"`
	Previous  hexBytes       `json:"previous"`
	Digest    hexBytes       `json:"digest"`
	signedVector
	PossessionText hexBytes `json:"possession_signed"`
	Possession     hexBytes `json:"possession"` // by the statement's own key
}

type aliasVector struct {
	From address.Address `json:"from"`
	To   address.Address `json:"to"`
	signedVector
}

type rotationVector struct {
	Domain address.Domain `json:"domain"`
	Old    hexBytes       `json:"old"`
	New    hexBytes       `json:"new"`
	When   crypt.UnixTime `json:"when"`
	signedVector
}

type historyVector struct {
	Name    string         `json:"name"`
	Domain  address.Domain `json:"asked_domain"`
	Account string         `json:"asked_account"`
	Payload hexBytes       `json:"payload"`
}

type receiptVector struct {
	Digest      hexBytes        `json:"core_digest"`
	Destination address.Address `json:"destination"`
	When        crypt.UnixTime  `json:"when"`
	Commit      uint64          `json:"commit"`
	Hash        hexBytes        `json:"hash"`
	signedVector
	Payload hexBytes `json:"payload"`
}

type entryVector struct {
	Digest hexBytes        `json:"core_digest"`
	Source address.Address `json:"source"`
	When   crypt.UnixTime  `json:"when"`
	signedVector
	Entry string `json:"entry"`
}

type proofVector struct {
	Role      crypt.Role     `json:"role"`
	Account   string         `json:"account"`
	Domain    address.Domain `json:"domain"`
	Server    address.Domain `json:"server"`
	Key       hexBytes       `json:"key"`
	ServerKey hexBytes       `json:"server_key"`
	Binding   hexBytes       `json:"binding"`
	signedVector
}

// by signs a statement with keys of these names.
func (p people) by(statement []byte, names ...string) signedVector {
	v := signedVector{statement, make(map[string]hexBytes)}
	for _, name := range names {
		sig := p.names()[name].Sign(statement)
		v.Signatures[name] = sig[:]
	}
	return v
}

func (p people) names() map[string]*crypt.PrivateKey {
	return map[string]*crypt.PrivateKey{
		"server": p.server, "alice": p.alice, "bob": p.bob, "recovery": p.recovery,
		"alice_second": p.alice2, "alice_third": p.alice3, "server_former": p.former,
	}
}

// newVectors makes the vectors with the tests' own encoder.
func newVectors(t *testing.T) *statementVectors {
	t.Helper()
	p := newPeople(t)
	v := &statementVectors{
		About: "CMTP 1 test vectors: what keys sign (docs/protocol.md sections 17 to 19). All values are hex " +
			"unless they are plainly not. Written by an encoder of their own, not by that of the program.",
		Keys:          make(map[string]keyOfPeople),
		KeyStatements: p.keyVectors(),
	}
	for name, k := range p.names() {
		pk := k.Public()
		id := pk.ID()
		v.Keys[name] = keyOfPeople{k.Bytes()[:32], pk[:], id[:]}
	}
	alias := wire("CMTP-1 alias\x00", name("cref.example", "sales"), name("cref.example", "alice"))
	v.Alias = aliasVector{named(t, "sales@cref.example"), named(t, "alice@cref.example"), p.by(alias, "server")}
	before, after := p.former.Public(), p.server.Public()
	rotation := wire("CMTP-1 rotation\x00cref.example\x00", before, after, time2)
	v.Rotation = rotationVector{named(t, "@cref.example").Domain, before[:], after[:], time2, p.by(rotation, "server_former", "server")}
	v.Histories = v.historyVectors(t)
	digest, hash := counting(0xe0), counting(0x11)
	receipt := wireReceipt([32]byte(digest), name("other.example", "bob"), time3, 4711, [32]byte(hash))
	v.Receipt = receiptVector{digest, named(t, "bob@other.example"), time3, 4711, hash, p.by(receipt, "server"), nil}
	v.Receipt.Payload = wire(receipt, []byte(v.Receipt.Signatures["server"]))
	v.Origin, v.Senders = p.entryVectors(t)
	for _, role := range []string{"user", "server", "recovery"} {
		c := p.proofs(t)[role]
		q, signer := c.proof, map[string]string{"user": "alice", "server": "server_former", "recovery": "recovery"}[role]
		v.Proofs = append(v.Proofs, proofVector{q.Role, q.Name.Account.String(), q.Name.Domain, q.Server,
			q.Key[:], q.ServerKey[:], q.Binding[:], p.by(c.text, signer)})
	}
	v.Received, v.Foreign = newReceivedVector(), p.foreignVectors(v.Histories)
	return v
}

// keyVectors are alice's first key, the one that follows, a reset, and the server's.
func (p people) keyVectors() []keyStatementVector {
	var all []keyStatementVector
	add := func(what, account string, key *crypt.PrivateKey, at crypt.UnixTime, flags byte, before []byte, signers ...string) {
		pk, previous := key.Public(), [32]byte{}
		if before != nil {
			previous = sum(before)
		}
		b := wireKey(name("cref.example", account), pk, at, flags, previous)
		digest, text := sum(b), wire("CMTP-1 possession\x00", b)
		possession := key.Sign(text)
		v := keyStatementVector{Name: what, Account: account, Key: pk[:], NotBefore: at, Reset: flags == 1, Previous: previous[:],
			Digest: digest[:], signedVector: p.by(b, signers...), PossessionText: text, Possession: possession[:]}
		_ = v.Domain.UnmarshalText([]byte("cref.example"))
		all = append(all, v)
	}
	add("first", "alice", p.alice, time1, 0, nil, "server")
	add("following", "alice", p.alice2, time2, 0, all[0].Statement, "alice", "server")
	add("reset", "alice", p.alice3, time3, 1, all[1].Statement, "server")
	add("server", "", p.server, time2, 0, nil, "server")
	return all
}

func (v *statementVectors) historyVectors(t *testing.T) []historyVector {
	signed := func(k keyStatementVector, old string) []byte {
		before := make([]byte, 64)
		if old != "" {
			before = k.Signatures[old]
		}
		return wire([]byte(k.Statement), before, []byte(k.Signatures["server"]))
	}
	k, domain := v.KeyStatements, named(t, "@cref.example").Domain
	first, following, server := signed(k[0], ""), signed(k[1], "alice"), signed(k[3], "")
	alias := wire([]byte(v.Alias.Statement), []byte(v.Alias.Signatures["server"]))
	rotation := wire([]byte(v.Rotation.Statement), []byte(v.Rotation.Signatures["server_former"]), []byte(v.Rotation.Signatures["server"]))
	none, one, two := uint32(0), uint32(1), uint32(2)
	return []historyVector{
		{"a user with two keys", domain, "alice", wire(none, two, first, following, none)},
		{"a user after a reset", domain, "alice", wire(none, uint32(3), first, following, signed(k[2], ""), none)},
		{"an alias", domain, "sales", wire(one, alias, one, first, none)},
		{"a server with a rotation", domain, "", wire(none, one, server, one, rotation)},
	}
}

func (p people) entryVectors(t *testing.T) (origin entryVector, senders []entryVector) {
	digest := counting(0xe0)
	alice := named(t, "alice@cref.example")
	b64 := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	signed := p.by(wire("CMTP-1 origin\x00", digest, name("cref.example", "alice"), time3), "server")
	origin = entryVector{digest, alice, time3, signed, "origin d=cref.example t=1720000000 s=" + b64(signed.Signatures["server"])}
	id := p.alice.Public().ID()
	for account, escaped := range map[string]string{"alice": "alice", "gr\u00fcn+50%=x": "gr%C3%BCn+50%25%3Dx"} {
		signed := p.by(wire("CMTP-1 sender\x00", digest, name("cref.example", account), id[:], time3), "alice")
		senders = append(senders, entryVector{digest, named(t, account+"@cref.example"), time3, signed,
			"sender a=" + escaped + " d=cref.example k=" + b64(id[:]) + " t=1720000000 s=" + b64(signed.Signatures["alice"])})
	}
	slices.SortFunc(senders, func(a, b entryVector) int { return strings.Compare(a.Entry, b.Entry) })
	return origin, senders
}

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// loadStatements returns the vectors as they stand in the file, which -update writes.
func loadStatements(t *testing.T) *statementVectors {
	t.Helper()
	if *update {
		b, err := json.MarshalIndent(newVectors(t), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(statementsFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(statementsFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &statementVectors{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestStatements_Unchanged holds the file to the tests' own encoder.
func TestStatements_Unchanged(t *testing.T) {
	want := newVectors(t)
	got := loadStatements(t)
	if !reflect.DeepEqual(got, want) {
		t.Error("testdata/cmtp-1.json is not what -update writes")
	}
	if len(got.KeyStatements) != 4 || len(got.Histories) != 4 || len(got.Senders) != 2 || len(got.Proofs) != 3 || len(got.Foreign) != 3 {
		t.Error("vectors are missing")
	}
}

// check holds a program's encoding and signatures to a vector.
func (v *signedVector) check(t *testing.T, what string, b []byte, sigs map[string]crypt.Signature) {
	t.Helper()
	if !bytes.Equal(b, v.Statement) {
		t.Errorf("%s encodes to\n%x, want\n%x", what, b, []byte(v.Statement))
	}
	if len(sigs) != len(v.Signatures) {
		t.Errorf("%s has %d signatures, want %d", what, len(sigs), len(v.Signatures))
	}
	for name, sig := range sigs {
		if !bytes.Equal(sig[:], v.Signatures[name]) {
			t.Errorf("%s: the signature of %s is %x, want %x", what, name, sig, []byte(v.Signatures[name]))
		}
	}
}

func TestStatements_Keys(t *testing.T) {
	p := newPeople(t)
	for _, v := range loadStatements(t).KeyStatements {
		s, n, err := crypt.ParseKeyStatement(v.Statement)
		if err != nil || n != len(v.Statement) {
			t.Fatalf("%s: %d bytes, %v", v.Name, n, err)
		}
		if s.Name.Domain != v.Domain || s.Name.Account.String() != v.Account || !bytes.Equal(s.Key[:], v.Key) ||
			s.NotBefore != v.NotBefore || s.Reset != v.Reset || !bytes.Equal(s.Previous[:], v.Previous) {
			t.Errorf("%s parses to %+v", v.Name, s)
		}
		if d := s.Digest(); !bytes.Equal(d[:], v.Digest) {
			t.Errorf("%s: the digest is %x", v.Name, d)
		}
		if sig := s.Possess(p.whose(s.Key)); !bytes.Equal(sig[:], v.Possession) || !s.IsPossessed(sig) ||
			!crypt.Verify(s.Key, v.PossessionText, sig) {
			t.Errorf("%s: possession is %x", v.Name, sig)
		}
		b := s.Append(nil)
		sigs := map[string]crypt.Signature{"server": p.server.Sign(b)}
		if v.Name == "following" {
			sigs["alice"] = p.alice.Sign(b)
		}
		v.check(t, v.Name, b, sigs)
	}
}

func TestStatements_Histories(t *testing.T) {
	p, all := newPeople(t), loadStatements(t)
	for _, v := range all.Histories {
		h, err := crypt.ParseHistory(v.Payload)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if !bytes.Equal(h.Append(nil), v.Payload) {
			t.Errorf("%s encodes again to %x", v.Name, h.Append(nil))
		}
		asked := named(t, v.Account+"@"+v.Domain.String())
		if err := h.Verify(asked, p.server.Public()); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	a := all.Alias
	alias := crypt.Alias{From: a.From, To: a.To}
	a.check(t, "alias", alias.Append(nil), map[string]crypt.Signature{"server": p.server.Sign(alias.Append(nil))})
	v := all.Rotation
	r := crypt.Rotation{Domain: v.Domain, Old: crypt.PublicKey(v.Old), New: crypt.PublicKey(v.New), When: v.When}
	s := r.Sign(p.former, p.server)
	v.check(t, "rotation", r.Append(nil), map[string]crypt.Signature{"server_former": s.OldSignature, "server": s.NewSignature})
	if err := s.Verify(); err != nil {
		t.Error(err)
	}
}

func TestStatements_Receipt(t *testing.T) {
	p, v := newPeople(t), loadStatements(t).Receipt
	r, err := crypt.OpenReceipt(v.Payload, p.server.Public())
	want := crypt.Receipt{Digest: [32]byte(v.Digest), Destination: v.Destination, When: v.When, Commit: v.Commit, Hash: [32]byte(v.Hash)}
	if err != nil || r != want {
		t.Errorf("opens to %+v, %v", r, err)
	}
	if b := r.AppendSigned(nil, p.server); !bytes.Equal(b, v.Payload) {
		t.Errorf("encodes again to %x", b)
	}
	v.check(t, "receipt", r.Append(nil), map[string]crypt.Signature{"server": p.server.Sign(r.Append(nil))})
}

func TestStatements_Entries(t *testing.T) {
	p, all := newPeople(t), loadStatements(t)
	v := all.Origin
	o := crypt.NewOrigin([32]byte(v.Digest), v.Source, v.When, p.server)
	if again, err := crypt.ParseOrigin(v.Entry); err != nil || again != o || o.String() != v.Entry {
		t.Errorf("origin %q parses to %+v, %v", v.Entry, again, err)
	}
	v.check(t, "origin", v.Statement, map[string]crypt.Signature{"server": o.Signature})
	for _, v := range all.Senders {
		s := crypt.NewSender([32]byte(v.Digest), v.Source, v.When, p.alice)
		if again, err := crypt.ParseSender(v.Entry); err != nil || again != s || s.String() != v.Entry {
			t.Errorf("sender %q parses to %+v, %v", v.Entry, again, err)
		}
		v.check(t, "sender", v.Statement, map[string]crypt.Signature{"alice": s.Signature})
	}
}

func TestStatements_Proofs(t *testing.T) {
	p, names := newPeople(t), []string{"alice", "server_former", "recovery"}
	for i, v := range loadStatements(t).Proofs {
		q := crypt.Proof{Role: v.Role, Server: v.Server, Key: crypt.PublicKey(v.Key), ServerKey: crypt.PublicKey(v.ServerKey), Binding: [32]byte(v.Binding)}
		q.Name = named(t, v.Account+"@"+v.Domain.String())
		sig := q.Sign(p.names()[names[i]])
		if !q.Verify(sig) || !crypt.Verify(q.Key, v.Statement, sig) {
			t.Errorf("the proof of role %d is refused", v.Role)
		}
		v.check(t, "proof", v.Statement, map[string]crypt.Signature{names[i]: sig})
	}
}
