package xzibit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// cheap is the least that Argon2id can cost.
var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

const addr = "alice@cref.example"

var password = []byte("correct horse")

func newKey(t testing.TB, seed byte) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{seed}, crypt.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newKeyring returns two keys, a server, a recovery key, and two extensions.
func newKeyring(t testing.TB) *xzibit.Keyring {
	t.Helper()
	k := &xzibit.Keyring{
		Keys: []xzibit.KeyPair{
			{Key: newKey(t, 2), Made: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)},
			{Key: newKey(t, 1)},
		},
		Server: newKey(t, 3).Public(),
		Extra:  []xzibit.Extension{{Type: 5, Data: []byte("first")}, {Type: 70000, Data: []byte{}}},
	}
	k.SetRecovery(newKey(t, 4))
	return k
}

func mustSeal(t testing.TB, k *xzibit.Keyring) []byte {
	t.Helper()
	x, err := xzibit.Seal(k, addr, password, cheap)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func encode(t testing.TB, k *xzibit.Keyring) []byte {
	t.Helper()
	b, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSeal_Open(t *testing.T) {
	k := newKeyring(t)
	x := mustSeal(t, k)
	if err := xzibit.Check(x); err != nil {
		t.Error(err)
	}
	got, err := xzibit.Open(x, addr, password)
	if err != nil {
		t.Fatal(err)
	}
	if got.Server != k.Server || got.Recovery != k.Recovery || got.Proof != k.Proof || len(got.Keys) != 2 || !got.Keys[0].Made.Equal(k.Keys[0].Made) || !got.Keys[1].Made.IsZero() ||
		!bytes.Equal(got.Keys[1].Key.Bytes(), k.Keys[1].Key.Bytes()) ||
		len(got.Extra) != 2 || got.Extra[1].Type != 70000 || string(got.Extra[0].Data) != "first" {
		t.Errorf("got %+v, want %+v", got, k)
	}
	if !bytes.Equal(encode(t, got), encode(t, k)) {
		t.Error("the keyring is encoded in another way the second time")
	}
	again := mustSeal(t, k)
	if bytes.Equal(x[4:36], again[4:36]) || bytes.Equal(x[56:80], again[56:80]) {
		t.Error("salt or nonce is not fresh")
	}
}

// TestSeal_Layout opens an xzibit by the byte tables of the package comment alone.
func TestSeal_Layout(t *testing.T) {
	k := newKeyring(t)
	p := xzibit.Params{Time: 2, MemoryKiB: 64, Threads: 3}
	x, err := xzibit.Seal(k, addr, password, p)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(x[at:]) }
	if u32(0) != 2 || binary.BigEndian.Uint64(x[36:]) != uint64(len(x)-44) || u32(44) != 2 || u32(48) != 64 || u32(52) != 3 {
		t.Fatalf("header is %x", x[:56])
	}
	aead, err := chacha20poly1305.NewX(argon2.IDKey(password, x[4:36], 2, 64, 3, 32))
	if err != nil {
		t.Fatal(err)
	}
	ad := append(bytes.Clone(x[:80]), 0, 0, 0, byte(len(addr)))
	plaintext, err := aead.Open(nil, x[56:80], x[80:], append(ad, addr...))
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	want = append(want, k.Server[:]...)
	want = append(want, 0, 0, 0, 2)
	want = binary.BigEndian.AppendUint64(want, uint64(k.Keys[0].Made.Unix()))
	want = append(want, k.Keys[0].Key.Bytes()...)
	want = binary.BigEndian.AppendUint64(want, 0)
	want = append(want, k.Keys[1].Key.Bytes()...)
	want = append(append(want, 0, 0, 0, 1, 0, 0, 0, 32), k.Recovery[:]...)
	proof := sha256.Sum256(append([]byte("CMTP-1 recovery proof\x00"), newKey(t, 4).Bytes()[:32]...))
	want = append(append(want, 0, 0, 0, 2, 0, 0, 0, 32), proof[:]...)
	want = append(want, 0, 0, 0, 5, 0, 0, 0, 5)
	want = append(want, "first"...)
	want = append(want, 0, 1, 0x11, 0x70, 0, 0, 0, 0)
	if !bytes.Equal(plaintext, want) {
		t.Errorf("plaintext is\n%x, want\n%x", plaintext, want)
	}
}

func TestSeal_Err(t *testing.T) {
	one := []xzibit.KeyPair{{Key: newKey(t, 1)}}
	recovery, proof := newKey(t, 4).Public(), xzibit.Proof{1}
	room := xzibit.MaxKeyring - len(encode(t, &xzibit.Keyring{Keys: one})) - 8
	at := func(s int64) []xzibit.KeyPair { return []xzibit.KeyPair{{Key: newKey(t, 1), Made: time.Unix(s, 0)}} }
	extra := func(types ...uint32) (all []xzibit.Extension) {
		for _, n := range types {
			all = append(all, xzibit.Extension{Type: n})
		}
		return all
	}
	for name, c := range map[string]struct {
		keyring  xzibit.Keyring
		addr     string
		password string
		want     error
	}{
		"good":                    {xzibit.Keyring{Keys: one}, addr, "p", nil},
		"empty password":          {xzibit.Keyring{Keys: one}, addr, "", xzibit.ErrEmptyPassword},
		"no key":                  {xzibit.Keyring{}, addr, "p", xzibit.ErrFormat},
		"no address":              {xzibit.Keyring{Keys: one}, "", "p", xzibit.ErrAddress},
		"longest address":         {xzibit.Keyring{Keys: one}, strings.Repeat("a", 511), "p", nil},
		"address too long":        {xzibit.Keyring{Keys: one}, strings.Repeat("a", 512), "p", xzibit.ErrAddress},
		"largest":                 {xzibit.Keyring{Keys: one, Extra: []xzibit.Extension{{Data: make([]byte, room)}}}, addr, "p", nil},
		"too large":               {xzibit.Keyring{Keys: one, Extra: []xzibit.Extension{{Data: make([]byte, room+1)}}}, addr, "p", xzibit.ErrFormat},
		"made in 1970":            {xzibit.Keyring{Keys: at(1)}, addr, "p", nil},
		"made at the epoch":       {xzibit.Keyring{Keys: at(0)}, addr, "p", xzibit.ErrFormat},
		"made in 9999":            {xzibit.Keyring{Keys: at(253402300799)}, addr, "p", nil},
		"made in 10000":           {xzibit.Keyring{Keys: at(253402300800)}, addr, "p", xzibit.ErrFormat},
		"extensions":              {xzibit.Keyring{Keys: one, Extra: extra(0, 3, 1<<32-1)}, addr, "p", nil},
		"extensions twice":        {xzibit.Keyring{Keys: one, Extra: extra(5, 5)}, addr, "p", xzibit.ErrFormat},
		"extensions out of order": {xzibit.Keyring{Keys: one, Extra: extra(6, 5)}, addr, "p", xzibit.ErrFormat},
		"type 1 among unknown":    {xzibit.Keyring{Keys: one, Extra: extra(0, 1, 5)}, addr, "p", xzibit.ErrFormat},
		"type 2 among unknown":    {xzibit.Keyring{Keys: one, Extra: extra(0, 2, 5)}, addr, "p", xzibit.ErrFormat},
		"recovery, no proof":      {xzibit.Keyring{Keys: one, Recovery: recovery}, addr, "p", xzibit.ErrFormat},
		"proof, no recovery":      {xzibit.Keyring{Keys: one, Proof: proof}, addr, "p", xzibit.ErrFormat},
		"recovery":                {xzibit.Keyring{Keys: one, Recovery: recovery, Proof: proof}, addr, "p", nil},
		"recovery between":        {xzibit.Keyring{Keys: one, Recovery: recovery, Proof: proof, Extra: extra(0, 5)}, addr, "p", nil},
		"recovery behind":         {xzibit.Keyring{Keys: one, Recovery: recovery, Proof: proof, Extra: extra(0)}, addr, "p", nil},
		"recovery is no key":      {xzibit.Keyring{Keys: one, Recovery: crypt.PublicKey{1}, Proof: proof}, addr, "p", crypt.ErrPublicKey},
		"largest with recovery":   {xzibit.Keyring{Keys: one, Recovery: recovery, Proof: proof, Extra: []xzibit.Extension{{Data: make([]byte, room-80)}}}, addr, "p", nil},
		"too large with recovery": {xzibit.Keyring{Keys: one, Recovery: recovery, Proof: proof, Extra: []xzibit.Extension{{Data: make([]byte, room-79)}}}, addr, "p", xzibit.ErrFormat},
	} {
		x, err := xzibit.Seal(&c.keyring, c.addr, []byte(c.password), cheap)
		if !errors.Is(err, c.want) || c.want != nil && x != nil {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(x), err, c.want)
			continue
		}
		if c.want != nil {
			continue
		}
		if strings.HasPrefix(name, "largest") && len(x) != xzibit.MaxSize {
			t.Errorf("the largest xzibit has %d bytes, not %d", len(x), xzibit.MaxSize)
		}
		k, err := xzibit.Open(x, c.addr, []byte(c.password))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if k.Recovery != c.keyring.Recovery || !bytes.Equal(encode(t, k), encode(t, &c.keyring)) {
			t.Errorf("%s: opens to another keyring", name)
		}
	}
}

func TestOpen_ErrPassword(t *testing.T) {
	x := mustSeal(t, newKeyring(t))
	for name, c := range map[string]struct{ addr, password string }{
		"wrong password":  {addr, "correct hors"},
		"empty password":  {addr, ""},
		"another account": {"alicf@cref.example", string(password)},
		"another domain":  {"alice@cref.exampl", string(password)},
		"other case":      {"Alice@cref.example", string(password)},
		"no address":      {"", string(password)},
	} {
		if k, err := xzibit.Open(x, c.addr, []byte(c.password)); !errors.Is(err, xzibit.ErrPassword) || k != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOpen_Altered changes every byte. No change may open, and each of the errors
// must be one that is documented.
func TestOpen_Altered(t *testing.T) {
	x := mustSeal(t, newKeyring(t))
	for i := range x {
		altered := bytes.Clone(x)
		altered[i] ^= 1
		_, err := xzibit.Open(altered, addr, password)
		want := xzibit.ErrPassword
		switch {
		case i == 3:
			want = xzibit.ErrLocked // 2 becomes 3
		case i < 3:
			want = xzibit.ErrVersion
		case i >= 36 && i < 44:
			want = xzibit.ErrFormat
		case i >= 44 && i < 49, i >= 52 && i < 56:
			want = xzibit.ErrParams // no pass, no thread, 2^24 KiB, and worse
		}
		if !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", i, err, want)
		}
		if i < len(x)-1 {
			if _, err := xzibit.Open(x[:i], addr, password); !errors.Is(err, xzibit.ErrFormat) {
				t.Errorf("cut to %d: %v", i, err)
			}
		}
	}
	if _, err := xzibit.Open(append(x, 0), addr, password); !errors.Is(err, xzibit.ErrFormat) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestOpen_Plaintext seals what is authentic and no keyring.
func TestOpen_Plaintext(t *testing.T) {
	good := encode(t, newKeyring(t))
	set := func(at int, b ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], b)
		return p
	}
	recovery, proof := good[len(good)-93:][:32], good[len(good)-53:][:32]
	with := func(extensions ...[]byte) []byte { // of types 1 and 2
		b := bytes.Clone(good[:len(good)-101])
		for i, data := range extensions {
			if data != nil {
				b = append(append(b, 0, 0, 0, byte(i+1), 0, 0, 0, byte(len(data))), data...)
			}
		}
		return b
	}
	longer := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
	halves := bytes.Clone(good)
	halves[36+8+40] ^= 1
	for name, c := range map[string]struct {
		plaintext []byte
		want      error
	}{
		"good":               {good, nil},
		"halves disagree":    {halves, crypt.ErrKeyHalves},
		"no key":             {set(35, 0), xzibit.ErrFormat},
		"one key more":       {set(35, 3), xzibit.ErrFormat},
		"2^32-1 keys":        {set(32, 255, 255, 255, 255), xzibit.ErrFormat},
		"made in 10000":      {set(36, 0, 0, 0, 0x3a, 0xff, 0xf4, 0x41, 0x80), xzibit.ErrFormat},
		"made at 2^64-1":     {set(36, 255, 255, 255, 255, 255, 255, 255, 255), xzibit.ErrFormat},
		"cut in extension":   {good[:len(good)-1], xzibit.ErrFormat},
		"extension too long": {set(len(good)-4, 255, 255, 255, 255), xzibit.ErrFormat},
		"extensions descend": {set(len(good)-8, 0, 0, 0, 0), xzibit.ErrFormat},
		"extension twice":    {set(len(good)-8, 0, 0, 0, 5), xzibit.ErrFormat},
		"proof again":        {set(len(good)-21, 0, 0, 0, 2), xzibit.ErrFormat},
		"recovery unknown":   {set(len(good)-101, 0, 0, 0, 0), xzibit.ErrFormat},
		"recovery is zero":   {set(len(good)-93, make([]byte, 32)...), xzibit.ErrFormat},
		"recovery is 1":      {set(len(good)-93, append([]byte{1}, make([]byte, 31)...)...), crypt.ErrPublicKey},
		"proof unknown":      {set(len(good)-61, 0, 0, 0, 3), xzibit.ErrFormat},
		"proof is zero":      {set(len(good)-53, make([]byte, 32)...), xzibit.ErrFormat},
		"neither":            {with(), nil},
		"both":               {with(recovery, proof), nil},
		"both are zero":      {with(make([]byte, 32), make([]byte, 32)), xzibit.ErrFormat},
		"recovery alone":     {with(recovery), xzibit.ErrFormat},
		"proof alone":        {with(nil, proof), xzibit.ErrFormat},
		"recovery of 31":     {with(recovery[:31], proof), xzibit.ErrFormat},
		"recovery of 33":     {with(longer(recovery), proof), xzibit.ErrFormat},
		"recovery of none":   {with([]byte{}, proof), xzibit.ErrFormat},
		"proof of 31":        {with(recovery, proof[:31]), xzibit.ErrFormat},
		"proof of 33":        {with(recovery, longer(proof)), xzibit.ErrFormat},
	} {
		x, err := xzibit.SealPlaintext(c.plaintext, addr, password, cheap)
		if err != nil {
			t.Fatal(err)
		}
		k, err := xzibit.Open(x, addr, password)
		if !errors.Is(err, c.want) || c.want != nil && (!errors.Is(err, xzibit.ErrFormat) || k != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	short, err := xzibit.SealPlaintext(good[:107], addr, password, cheap)
	if err != nil {
		t.Fatal(err)
	}
	if err := xzibit.Check(short); !errors.Is(err, xzibit.ErrFormat) {
		t.Errorf("shorter than any keyring: %v", err)
	}
}

// TestOpen_Normal types one password in two ways.
func TestOpen_Normal(t *testing.T) {
	composed, decomposed := []byte("caf\u00e9"), []byte("cafe\u0301")
	for _, c := range [][2][]byte{{composed, decomposed}, {decomposed, composed}} {
		x, err := xzibit.Seal(newKeyring(t), addr, c[0], cheap)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := xzibit.Open(x, addr, c[1]); err != nil {
			t.Errorf("sealed under %+q, opened with %+q: %v", c[0], c[1], err)
		}
	}
}

func TestCheck_Params(t *testing.T) {
	x := mustSeal(t, newKeyring(t))
	for _, c := range []struct {
		p    xzibit.Params
		want error
	}{
		{xzibit.DefaultParams(), nil},
		{xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}, nil},
		{xzibit.Params{Time: 0, MemoryKiB: 8, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 16, MemoryKiB: 8, Threads: 1}, nil},
		{xzibit.Params{Time: 17, MemoryKiB: 8, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 1, MemoryKiB: 7, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 4, MemoryKiB: 1 << 20, Threads: 1}, nil},
		{xzibit.Params{Time: 5, MemoryKiB: 1 << 20, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 16, MemoryKiB: 1 << 18, Threads: 1}, nil},
		{xzibit.Params{Time: 16, MemoryKiB: 1<<18 + 1, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 1, MemoryKiB: 1<<20 + 1, Threads: 1}, xzibit.ErrParams},
		{xzibit.Params{Time: 1, MemoryKiB: 1 << 20, Threads: 0}, xzibit.ErrParams},
		{xzibit.Params{Time: 1, MemoryKiB: 128, Threads: 16}, nil},
		{xzibit.Params{Time: 1, MemoryKiB: 127, Threads: 16}, xzibit.ErrParams},
		{xzibit.Params{Time: 1, MemoryKiB: 1 << 20, Threads: 17}, xzibit.ErrParams},
		{xzibit.Params{Time: 1<<32 - 1, MemoryKiB: 1<<32 - 1, Threads: 1<<32 - 1}, xzibit.ErrParams},
	} {
		binary.BigEndian.PutUint32(x[44:], c.p.Time)
		binary.BigEndian.PutUint32(x[48:], c.p.MemoryKiB)
		binary.BigEndian.PutUint32(x[52:], c.p.Threads)
		if err := xzibit.Check(x); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.p, err, c.want)
		}
		if c.want == nil {
			continue // to open it would spend what the limit allows
		}
		if _, err := xzibit.Open(x, addr, password); !errors.Is(err, c.want) {
			t.Errorf("opening under %+v: %v", c.p, err)
		}
		if _, err := xzibit.Seal(newKeyring(t), addr, password, c.p); !errors.Is(err, c.want) {
			t.Errorf("sealing under %+v: %v", c.p, err)
		}
	}
}

// TestDefaultParams is the one test that pays the full price.
func TestDefaultParams(t *testing.T) {
	p := xzibit.DefaultParams()
	if p.Time < 3 || p.MemoryKiB < 64<<10 {
		t.Errorf("%+v is less than 3 passes over 64 MiB", p)
	}
	x, err := xzibit.Seal(newKeyring(t), addr, password, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xzibit.Open(x, addr, password); err != nil {
		t.Error(err)
	}
}

func TestReadFrom(t *testing.T) {
	x := mustSeal(t, newKeyring(t))
	r := bytes.NewReader(append(bytes.Clone(x), "signature"...))
	got, err := xzibit.ReadFrom(iotest.OneByteReader(r))
	if err != nil || !bytes.Equal(got, x) {
		t.Fatalf("read %d of %d bytes, %v", len(got), len(x), err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "signature" {
		t.Errorf("%q is left, %v", rest, err)
	}
	for i := range x {
		want := io.ErrUnexpectedEOF
		if i == 0 {
			want = io.EOF
		}
		if _, err := xzibit.ReadFrom(bytes.NewReader(x[:i])); !errors.Is(err, want) {
			t.Errorf("cut to %d: %v, want %v", i, err, want)
		}
	}
	bad := bytes.Clone(x)
	bad[47] = 0
	if _, err := xzibit.ReadFrom(bytes.NewReader(bad)); !errors.Is(err, xzibit.ErrParams) {
		t.Errorf("no pass: %v", err)
	}
}

// TestReadFrom_Length gives lengths at the limit and past it, without the bytes.
func TestReadFrom_Length(t *testing.T) {
	header := func(version uint32, n uint64) []byte {
		b := binary.BigEndian.AppendUint32(nil, version)
		return binary.BigEndian.AppendUint64(append(b, make([]byte, 32)...), n)
	}
	for _, c := range []struct {
		version uint32
		n       uint64
		want    error
	}{
		{1, 112, io.ErrUnexpectedEOF},
		{1, 111, xzibit.ErrFormat},
		{1, 113, xzibit.ErrFormat},
		{1, 1<<64 - 1, xzibit.ErrFormat},
		{2, 160, io.ErrUnexpectedEOF},
		{2, 159, xzibit.ErrFormat},
		{2, 65536, io.ErrUnexpectedEOF},
		{2, 65537, xzibit.ErrFormat},
		{2, 1<<64 - 1, xzibit.ErrFormat},
		{0, 112, xzibit.ErrVersion},
		{3, 160, io.ErrUnexpectedEOF},
		{3, 159, xzibit.ErrFormat},
		{3, 65536, io.ErrUnexpectedEOF},
		{3, 65537, xzibit.ErrFormat},
		{4, 160, xzibit.ErrVersion},
	} {
		if _, err := xzibit.ReadFrom(bytes.NewReader(header(c.version, c.n))); !errors.Is(err, c.want) {
			t.Errorf("version %d, length %d: %v, want %v", c.version, c.n, err, c.want)
		}
		allocs := testing.AllocsPerRun(10, func() {
			_, _ = xzibit.ReadFrom(bytes.NewReader(header(c.version, c.n)))
		})
		if allocs > 20 {
			t.Errorf("version %d, length %d: %v allocations", c.version, c.n, allocs)
		}
	}
}

func TestKeyring_Wipe(t *testing.T) {
	k := newKeyring(t)
	k.Wipe()
	if string(k.Extra[0].Data) != "\x00\x00\x00\x00\x00" {
		t.Error("an extension is still there")
	}
	if k.Proof != (xzibit.Proof{}) {
		t.Error("the proof is still there")
	}
	defer func() {
		if recover() == nil {
			t.Error("a key is still there")
		}
	}()
	k.Keys[1].Key.Bytes()
}

func TestKeyring_Redacted(t *testing.T) {
	k := newKeyring(t)
	k.Extra[0].Data = []byte("SECRET")
	k.Proof = xzibit.Proof([]byte("SECRET proof of the recovery key"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		s := strings.ToUpper(fmt.Sprintf(verb, k))
		for _, piece := range []string{"SECRET", "534543524554", "83 69 67", "0X53, 0X45", "REDACTED"} {
			if strings.Contains(s, piece) != (piece == "REDACTED") {
				t.Errorf("%s prints %s", verb, s)
			}
		}
	}
}
