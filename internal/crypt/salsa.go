package crypt

import (
	"encoding/binary"

	"golang.org/x/crypto/poly1305"      //lint:ignore SA1019 the MAC of these boxes; no other kept package computes it piece by piece
	"golang.org/x/crypto/salsa20/salsa" //lint:ignore SA1019 the only kept Salsa20 that starts at any block
)

// A sharedKey is what libsodium's crypto_box_beforenm computes: HSalsa20 of the
// X25519 secret.
type sharedKey [32]byte

func newSharedKey(z *[32]byte) *sharedKey {
	var k sharedKey
	salsa.HSalsa20((*[32]byte)(&k), new([16]byte), z, &salsa.Sigma)
	return &k
}

func (k *sharedKey) wipe() { clear(k[:]) }

// xsalsa20 is the key stream of one box, at any offset. Its first 32 bytes are the
// key of the MAC; the plaintext begins behind them.
type xsalsa20 struct {
	key   [32]byte
	nonce [8]byte // the last third of the box's; the rest went into the key
}

func newXSalsa20(k *sharedKey, nonce [24]byte) *xsalsa20 {
	x := &xsalsa20{nonce: [8]byte(nonce[16:])}
	salsa.HSalsa20(&x.key, (*[16]byte)(nonce[:16]), (*[32]byte)(k), &salsa.Sigma)
	return x
}

func (x *xsalsa20) wipe() { clear(x.key[:]) }

func (x *xsalsa20) mac() *poly1305.MAC {
	var key [32]byte
	defer clear(key[:])
	counter := x.counter(0)
	salsa.XORKeyStream(key[:], key[:], &counter, &x.key)
	return poly1305.New(&key)
}

// xorAt encrypts or decrypts b, which stands at an offset of the plaintext.
func (x *xsalsa20) xorAt(b []byte, off int64) {
	const block = 64
	at := uint64(off) + 32
	counter := x.counter(at / block)
	if skip := int(at % block); skip != 0 && len(b) > 0 {
		var head [block]byte
		n := copy(head[skip:], b)
		salsa.XORKeyStream(head[:], head[:], &counter, &x.key)
		copy(b, head[skip:skip+n])
		clear(head[:])
		b = b[n:]
		counter = x.counter(at/block + 1)
	}
	salsa.XORKeyStream(b, b, &counter, &x.key)
}

func (x *xsalsa20) counter(block uint64) (c [16]byte) {
	copy(c[:], x.nonce[:])
	binary.LittleEndian.PutUint64(c[8:], block)
	return c
}
