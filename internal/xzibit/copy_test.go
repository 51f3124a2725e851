package xzibit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

func mustSealCopy(t testing.TB, k *xzibit.Keyring) []byte {
	t.Helper()
	b, err := xzibit.SealCopy(k, addr)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// copyOf puts a copy together by the byte table of protocol.md alone.
func copyOf(t testing.TB, to crypt.PublicKey, plaintext []byte) []byte {
	t.Helper()
	box, err := crypt.Seal(nil, plaintext, to)
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{0, 0, 0, 1}, to[:]...)
	return append(binary.BigEndian.AppendUint64(b, uint64(len(box))), box...)
}

// inCopy returns what is sealed in a copy of k.
func inCopy(t testing.TB, k *xzibit.Keyring) []byte {
	t.Helper()
	return append(append([]byte{0, 0, 0, byte(len(addr))}, addr...), encode(t, k)...)
}

func TestSealCopy_OpenCopy(t *testing.T) {
	k, key := newKeyring(t), newKey(t, 4)
	b := mustSealCopy(t, k)
	if pk, err := xzibit.CheckCopy(b); err != nil || pk != key.Public() {
		t.Errorf("the copy is for %v, %v", pk, err)
	}
	got, err := xzibit.OpenCopy(b, addr, key)
	if err != nil || !bytes.Equal(encode(t, got), encode(t, k)) {
		t.Errorf("opened to %+v, %v", got, err)
	}
	if bytes.Equal(b, mustSealCopy(t, k)) {
		t.Error("two copies are alike")
	}
	pk := key.Public()
	if binary.BigEndian.Uint32(b) != 1 || !bytes.Equal(b[4:36], pk[:]) || binary.BigEndian.Uint64(b[36:]) != uint64(len(b)-44) {
		t.Errorf("header is %x", b[:44])
	}
	if plaintext, err := key.Open(nil, b[44:]); err != nil || !bytes.Equal(plaintext, inCopy(t, k)) {
		t.Errorf("%x is sealed in it, %v", plaintext, err)
	}
}

func TestSealCopy_Err(t *testing.T) {
	full := newKeyring(t)
	full.Extra = []xzibit.Extension{{Type: 9, Data: nil}}
	full.Extra[0].Data = make([]byte, 65536-48-len(inCopy(t, full)))
	over := newKeyring(t)
	over.Extra = []xzibit.Extension{{Type: 9, Data: make([]byte, len(full.Extra[0].Data)+1)}}
	none := newKeyring(t)
	none.Recovery, none.Proof = crypt.PublicKey{}, xzibit.Proof{}
	unusable := newKeyring(t)
	unusable.Recovery = crypt.PublicKey{1}
	for name, c := range map[string]struct {
		keyring *xzibit.Keyring
		addr    string
		want    error
	}{
		"good":             {newKeyring(t), addr, nil},
		"longest address":  {newKeyring(t), strings.Repeat("a", 511), nil},
		"address too long": {newKeyring(t), strings.Repeat("a", 512), xzibit.ErrAddress},
		"no address":       {newKeyring(t), "", xzibit.ErrAddress},
		"largest":          {full, addr, nil},
		"too large":        {over, addr, xzibit.ErrFormat},
		"no recovery key":  {none, addr, xzibit.ErrNoRecovery},
		"unusable key":     {unusable, addr, xzibit.ErrFormat},
		"no key":           {&xzibit.Keyring{Recovery: full.Recovery}, addr, xzibit.ErrFormat},
	} {
		b, err := xzibit.SealCopy(c.keyring, c.addr)
		if !errors.Is(err, c.want) || (b == nil) != (c.want != nil) {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(b), err, c.want)
			continue
		}
		if b == nil {
			continue
		}
		if name == "largest" && len(b) != xzibit.MaxSize {
			t.Errorf("the largest copy has %d bytes, not %d", len(b), xzibit.MaxSize)
		}
		if _, err := xzibit.OpenCopy(b, c.addr, newKey(t, 4)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := xzibit.Seal(over, addr, password, cheap); err != nil {
		t.Errorf("what is too large for a copy is too large for an xzibit: %v", err)
	}
}

func TestCheckCopy(t *testing.T) {
	b := mustSealCopy(t, newKeyring(t))
	pk := newKey(t, 4).Public()
	sized := func(n int) []byte {
		b := append([]byte{0, 0, 0, 1}, pk[:]...)
		return append(binary.BigEndian.AppendUint64(b, uint64(n)), make([]byte, n)...)
	}
	set := func(at int, with ...byte) []byte {
		b := bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	const least = 48 + 4 + 1 + 108 + 40 + 40
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"good":       {b, nil},
		"shortest":   {sized(least), nil},
		"shorter":    {sized(least - 1), xzibit.ErrCopy},
		"longest":    {sized(65536), nil},
		"longer":     {sized(65537), xzibit.ErrCopy},
		"nothing":    {nil, xzibit.ErrCopy},
		"header":     {b[:44], xzibit.ErrCopy},
		"cut":        {b[:len(b)-1], xzibit.ErrCopy},
		"a byte on":  {append(bytes.Clone(b), 0), xzibit.ErrCopy},
		"version 0":  {set(3, 0), xzibit.ErrCopy},
		"version 2":  {set(3, 2), xzibit.ErrCopy},
		"2^64-1":     {set(36, bytes.Repeat([]byte{255}, 8)...), xzibit.ErrCopy},
		"zero key":   {set(4, make([]byte, 32)...), crypt.ErrPublicKey},
		"an xzibit":  {mustSeal(t, newKeyring(t)), xzibit.ErrCopy},
		"version 1x": {loadVectors(t).Good[0].Xzibit, xzibit.ErrCopy},
	} {
		pk, err := xzibit.CheckCopy(c.b)
		if !errors.Is(err, c.want) || c.want != nil && (!errors.Is(err, xzibit.ErrCopy) || pk != crypt.PublicKey{}) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if _, err := xzibit.OpenCopy(c.b, addr, newKey(t, 4)); c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s opens: %v, want %v", name, err, c.want)
		}
	}
}

func TestOpenCopy_ErrRecoveryKey(t *testing.T) {
	k := newKeyring(t)
	b := mustSealCopy(t, k)
	relabelled := bytes.Clone(b)
	pk := newKey(t, 5).Public()
	copy(relabelled[4:], pk[:])
	for name, c := range map[string]struct {
		b    []byte
		addr string
		key  byte
	}{
		"another key":          {b, addr, 5},
		"another key in front": {relabelled, addr, 5},
		"for another key":      {relabelled, addr, 4},
		"another account":      {b, "alicf@cref.example", 4},
		"other case":           {b, "Alice@cref.example", 4},
		"no address":           {b, "", 4},
	} {
		if k, err := xzibit.OpenCopy(c.b, c.addr, newKey(t, c.key)); !errors.Is(err, xzibit.ErrRecoveryKey) || k != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 44; i < len(b); i++ {
		altered := bytes.Clone(b)
		altered[i] ^= 1
		if _, err := xzibit.OpenCopy(altered, addr, newKey(t, 4)); !errors.Is(err, xzibit.ErrRecoveryKey) {
			t.Errorf("byte %d altered: %v", i, err)
		}
	}
}

// TestOpenCopy_ErrCopy seals what anybody can seal: the public key is enough for it.
func TestOpenCopy_ErrCopy(t *testing.T) {
	k, key := newKeyring(t), newKey(t, 4)
	good := inCopy(t, k)
	set := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	other := newKeyring(t)
	other.SetRecovery(newKey(t, 5))
	forged := newKeyring(t)
	forged.SetRecovery(newKey(t, 5))
	forged.Recovery = key.Public()
	none := newKeyring(t)
	none.Recovery, none.Proof = crypt.PublicKey{}, xzibit.Proof{}
	long := append(append([]byte{0, 0, 2, 0}, bytes.Repeat([]byte{'a'}, 512)...), encode(t, k)...)
	for name, c := range map[string]struct {
		plaintext []byte
		want      error
	}{
		"good":               {good, nil},
		"no address":         {set(0, 0, 0, 0, 0), xzibit.ErrCopy},
		"address too long":   {long, xzibit.ErrCopy},
		"address to the end": {set(0, 0, 0, byte((len(good)-4)>>8), byte(len(good)-4)), xzibit.ErrRecoveryKey},
		"address beyond it":  {set(0, 0, 0, byte((len(good)-3)>>8), byte(len(good)-3)), xzibit.ErrCopy},
		"address of 511":     {set(0, 0, 0, 1, 255), xzibit.ErrCopy},
		"address of 2^32-1":  {set(0, 255, 255, 255, 255), xzibit.ErrCopy},
		"cut":                {good[:len(good)-1], xzibit.ErrFormat},
		"no keys":            {set(4+len(addr)+35, 0), xzibit.ErrFormat},
		"halves disagree":    {set(4+len(addr)+36+8+40, 0xff), crypt.ErrKeyHalves},
		"another's recovery": {inCopy(t, other), xzibit.ErrCopy},
		"no recovery":        {inCopy(t, none), xzibit.ErrCopy},
		"forged":             {inCopy(t, forged), xzibit.ErrForged},
	} {
		ring, err := xzibit.OpenCopy(copyOf(t, key.Public(), c.plaintext), addr, key)
		if !errors.Is(err, c.want) || (ring == nil) != (err != nil) || errors.Is(err, xzibit.ErrFormat) && !errors.Is(err, xzibit.ErrCopy) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
