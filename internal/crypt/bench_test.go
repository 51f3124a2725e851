package crypt_test

import (
	"crypto/rand"
	"testing"

	"golang.org/x/crypto/nacl/box"

	"cmtpd/internal/crypt"
)

var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}}

func run(b *testing.B, name string, n int, f func()) {
	b.Run(name, func(b *testing.B) {
		b.SetBytes(int64(n))
		for b.Loop() {
			f()
		}
	})
}

// BenchmarkNaCl compares this build with nacl/box in one run. Both are given the
// recipient's key in X25519.
func BenchmarkNaCl(b *testing.B) {
	k := newKey(b)
	to, err := crypt.NewRecipient(k.Public())
	if err != nil {
		b.Fatal(err)
	}
	x, u := k.X25519()
	private, public := (*[32]byte)(x), (*[32]byte)(u)
	for _, size := range benchSizes {
		plaintext := pattern(size.n)
		sealed := mustSeal(b, plaintext, k.Public())
		run(b, "seal/"+size.name+"/crypt", size.n, func() { _, _ = to.Seal(nil, plaintext) })
		run(b, "seal/"+size.name+"/nacl", size.n, func() { _, _ = box.SealAnonymous(nil, plaintext, public, rand.Reader) })
		run(b, "open/"+size.name+"/crypt", size.n, func() { _, _ = k.Open(nil, sealed) })
		run(b, "open/"+size.name+"/nacl", size.n, func() { box.OpenAnonymous(nil, sealed, public, private) })
	}
}

func BenchmarkKeys(b *testing.B) {
	k, msg := newKey(b), pattern(64)
	pk, sig := k.Public(), k.Sign(msg)
	run(b, "ParsePublicKey", 32, func() { _, _ = crypt.ParsePublicKey(pk[:]) })
	run(b, "NewRecipient", 32, func() { _, _ = crypt.NewRecipient(pk) })
	run(b, "Seal", 1<<10, func() { _, _ = crypt.Seal(nil, pattern(1<<10), pk) })
	run(b, "Sign", 64, func() { k.Sign(msg) })
	run(b, "Verify", 64, func() { crypt.Verify(pk, msg, sig) })
}

func BenchmarkStatements(b *testing.B) {
	p := newPeople(b)
	first, receipt := p.first(b), p.receipt(b)
	one, all := p.history(first), []crypt.KeyStatement{first}
	for len(all) < crypt.MaxKeyStatements {
		all = append(all, all[len(all)-1].Follow(p.alice.Public(), time2))
	}
	wireOne, wireMost := one.Append(nil), p.history(all...).Append(nil)
	signed := receipt.AppendSigned(nil, p.server)
	server, buf := p.server.Public(), make([]byte, 0, crypt.MaxReceipt)
	run(b, "KeyStatement.Append", 0, func() { first.Append(buf) })
	run(b, "History.Verify/1", 0, func() { _ = one.Verify(first.Name, server) })
	run(b, "ParseHistory/1", len(wireOne), func() { _, _ = crypt.ParseHistory(wireOne) })
	run(b, "ParseHistory/256", len(wireMost), func() { _, _ = crypt.ParseHistory(wireMost) })
	run(b, "Receipt.AppendSigned", 0, func() { receipt.AppendSigned(buf, p.server) })
	run(b, "OpenReceipt", 0, func() { _, _ = crypt.OpenReceipt(signed, server) })
}
