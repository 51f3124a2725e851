package xzibit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/edwards25519"
	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"github.com/cosmos/go-bip39"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/nacl/box"

	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

var update = flag.Bool("update", false, "write testdata/cmtp-1-xzibit.json anew")

const vectorFile = "../../testdata/cmtp-1-xzibit.json"

// MarshalText makes hexBytes what UnmarshalText reads.
func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// vectors3 is the whole file. What is an input stands before what is made of it.
type vectors3 struct {
	About    string         `json:"about"`
	Password hexBytes       `json:"password_typed"`
	NFC      hexBytes       `json:"password_nfc"`
	Address  string         `json:"address"`
	OPRF     oprfVector     `json:"oprf"`
	Keyring  keyringVector  `json:"keyring"`
	Xzibits  []xzibitVector `json:"xzibits"`
	Recovery recoveryVector `json:"recovery"`
}

type oprfVector struct {
	Seed       hexBytes `json:"seed"`
	Info       string   `json:"info"`
	PrivateKey hexBytes `json:"private_key"`
	Blind      hexBytes `json:"blind"`
	Blinded    hexBytes `json:"blinded"`
	Evaluated  hexBytes `json:"evaluated"`
	Output     hexBytes `json:"output"`
}

type keyringVector struct {
	Server    hexBytes   `json:"server_seed"`
	Keys      []hexBytes `json:"keys"`
	Made      []uint64   `json:"made"`
	Plaintext hexBytes   `json:"plaintext"`
}

type xzibitVector struct {
	Name      string   `json:"name"`
	Time      uint32   `json:"time"`
	MemoryKiB uint32   `json:"memory_kib"`
	Threads   uint32   `json:"threads"`
	Salt      hexBytes `json:"salt"`
	Nonce     hexBytes `json:"nonce"`
	Secret    hexBytes `json:"argon2id_input"`
	Key       hexBytes `json:"argon2id_output"`
	Xzibit    hexBytes `json:"xzibit"`
}

type recoveryVector struct {
	Entropy   hexBytes `json:"entropy"`
	Words     string   `json:"words"`
	Seed      hexBytes `json:"seed"`
	Public    hexBytes `json:"public"`
	Proof     hexBytes `json:"proof"`
	Ephemeral hexBytes `json:"ephemeral_secret"`
	Box       hexBytes `json:"box_plaintext"`
	Copy      hexBytes `json:"copy"`
}

// sequence returns the n bytes that count up from a first one.
func sequence(first byte, n int) hexBytes {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// inputs returns the file's inputs alone. The key pairs are those of cmtp-0.01.json: the
// server's is 00 01 .. 1f, alice's 20 21 .. 3f.
func inputs() *vectors3 {
	return &vectors3{
		About: "CMTP 1: xzibit version 3 and recovery copy, docs/protocol.md sections 8.2 to 8.4. " +
			"Made by go test ./internal/xzibit -run Vectors3 -update, from fixed inputs; checked with libsodium and libargon2.",
		Password: hexBytes("cafe\u0301 horse"),
		Address:  "alice@example.org",
		OPRF: oprfVector{
			Seed: sequence(0x60, 32),
			Info: "CMTP-1 unlock",
			// Little-endian and below the group's order.
			Blind: append(sequence(0x80, 31), 0x05),
		},
		Keyring: keyringVector{Server: sequence(0, 32), Keys: []hexBytes{sequence(0x20, 32)}, Made: []uint64{1795953600}},
		Xzibits: []xzibitVector{
			{Name: "cheap", Time: 1, MemoryKiB: 8, Threads: 1, Salt: sequence(0xa0, 32), Nonce: sequence(0xc0, 24)},
			{Name: "default", Time: 3, MemoryKiB: 65536, Threads: 1, Salt: sequence(0xb0, 32), Nonce: sequence(0xd0, 24)},
		},
		Recovery: recoveryVector{Entropy: sequence(0xe0, 16), Ephemeral: sequence(0x90, 32)},
	}
}

// complete makes all that follows from the inputs.
func (v *vectors3) complete(t *testing.T) {
	t.Helper()
	nfc, err := xzibit.UnlockInput(v.Password)
	if err != nil {
		t.Fatal(err)
	}
	v.NFC = nfc
	v.OPRF.complete(t, nfc)
	ring := v.completeKeyring(t)
	for i := range v.Xzibits {
		x := &v.Xzibits[i]
		x.Secret = append(append([]byte{0, 0, 0, byte(len(nfc))}, nfc...), v.OPRF.Output...)
		x.Key = argon2.IDKey(x.Secret, x.Salt, x.Time, x.MemoryKiB, uint8(x.Threads), 32)
		p := xzibit.Params{Time: x.Time, MemoryKiB: x.MemoryKiB, Threads: x.Threads}
		fresh := append(bytes.Clone(x.Salt), x.Nonce...)
		if x.Xzibit, err = xzibit.SealUnlockedWith(fresh, v.Keyring.Plaintext, v.Address, v.Password, v.OPRF.Output, p); err != nil {
			t.Fatal(err)
		}
	}
	v.completeCopy(t, ring)
}

// complete goes the way of package oprf with circl alone.
func (v *oprfVector) complete(t *testing.T, input []byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := oprf.DeriveKey(oprf.SuiteRistretto255, oprf.BaseMode, v.Seed, []byte(v.Info))
	must(err)
	v.PrivateKey, err = key.MarshalBinary()
	must(err)
	blind := group.Ristretto255.NewScalar()
	must(blind.UnmarshalBinary(v.Blind))
	client := oprf.NewClient(oprf.SuiteRistretto255)
	data, request, err := client.DeterministicBlind([][]byte{input}, []oprf.Blind{blind})
	must(err)
	v.Blinded, err = request.Elements[0].MarshalBinaryCompress()
	must(err)
	done, err := oprf.NewServer(oprf.SuiteRistretto255, key).Evaluate(request)
	must(err)
	v.Evaluated, err = done.Elements[0].MarshalBinaryCompress()
	must(err)
	outputs, err := client.Finalize(data, done)
	must(err)
	v.Output = outputs[0]
}

func fromSeed(t *testing.T, seed []byte) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.PrivateKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// completeKeyring derives the recovery key too, of which the keyring holds a part.
func (v *vectors3) completeKeyring(t *testing.T) *xzibit.Keyring {
	t.Helper()
	seed := sha256.Sum256(append([]byte("CMTP-1 recovery key\x00"), v.Recovery.Entropy...))
	proof := sha256.Sum256(append([]byte("CMTP-1 recovery proof\x00"), seed[:]...))
	key := fromSeed(t, seed[:])
	public := key.Public()
	v.Recovery.Seed, v.Recovery.Proof, v.Recovery.Public = seed[:], proof[:], public[:]

	ring := &xzibit.Keyring{Server: fromSeed(t, v.Keyring.Server).Public()}
	for i, seed := range v.Keyring.Keys {
		made := time.Unix(int64(v.Keyring.Made[i]), 0)
		ring.Keys = append(ring.Keys, xzibit.KeyPair{Key: fromSeed(t, seed), Made: made})
	}
	ring.SetRecovery(key)
	v.Keyring.Plaintext = encode(t, ring)
	return ring
}

// completeCopy seals with nacl/box, which takes an ephemeral key that is given.
func (v *vectors3) completeCopy(t *testing.T, ring *xzibit.Keyring) {
	t.Helper()
	r := &v.Recovery
	var err error
	if r.Words, err = bip39.NewMnemonic(r.Entropy); err != nil {
		t.Fatal(err)
	}
	p, err := new(edwards25519.Point).SetBytes(r.Public)
	if err != nil {
		t.Fatal(err)
	}
	r.Box = append(append([]byte{0, 0, 0, byte(len(v.Address))}, v.Address...), v.Keyring.Plaintext...)
	sealed, err := box.SealAnonymous(nil, r.Box, (*[32]byte)(p.BytesMontgomery()), bytes.NewReader(r.Ephemeral))
	if err != nil {
		t.Fatal(err)
	}
	r.Copy = append(append([]byte{0, 0, 0, 1}, ring.Recovery[:]...), 0, 0, 0, 0, 0, 0, byte(len(sealed)>>8), byte(len(sealed)))
	r.Copy = append(r.Copy, sealed...)
}

// TestVectors3 makes the file from its inputs, and opens what is in it.
func TestVectors3(t *testing.T) {
	made := inputs()
	made.complete(t)
	b, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(vectorFile, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, b) {
		t.Errorf("%s is not what its inputs give:\n%s", vectorFile, b)
	}
	var v vectors3
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	for _, x := range v.Xzibits {
		k, err := xzibit.OpenUnlocked(x.Xzibit, v.Address, v.Password, v.OPRF.Output)
		if err != nil || !bytes.Equal(encode(t, k), v.Keyring.Plaintext) {
			t.Errorf("%s: opened to %+v, %v", x.Name, k, err)
		}
	}
	k, err := xzibit.OpenCopy(v.Recovery.Copy, v.Address, fromSeed(t, v.Recovery.Seed))
	if err != nil || !bytes.Equal(encode(t, k), v.Keyring.Plaintext) {
		t.Errorf("the copy opens to %+v, %v", k, err)
	}
}

// TestDocument3 holds the examples of protocol.md's sections 8.2 to 8.4 to the vectors.
func TestDocument3(t *testing.T) {
	v := inputs()
	v.complete(t)
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"unlock-seed":      v.OPRF.Seed,
		"unlock-key":       v.OPRF.PrivateKey,
		"unlock-blind":     v.OPRF.Blind,
		"unlock-blinded":   v.OPRF.Blinded,
		"unlock-evaluated": v.OPRF.Evaluated,
		"unlock-output":    v.OPRF.Output,
		"keyring-alice":    v.Keyring.Plaintext,
		"xzibit-3-alice":   v.Xzibits[0].Xzibit,
		"recovery-entropy": v.Recovery.Entropy,
		"recovery-seed":    v.Recovery.Seed,
		"recovery-copy":    v.Recovery.Copy,
	} {
		block := regexp.MustCompile("(?s)```hex " + name + "\n(.*?)```").FindSubmatch(doc)
		if block == nil {
			t.Errorf("the document has no example %s, which is\n%x", name, want)
			continue
		}
		var digits strings.Builder
		for line := range strings.Lines(string(block[1])) {
			line, _, _ = strings.Cut(line, ";")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		if digits.String() != hex.EncodeToString(want) {
			t.Errorf("%s is\n%s, want\n%x", name, digits.String(), want)
		}
	}
	if !bytes.Contains(doc, []byte("    "+v.Recovery.Words+"\n")) {
		t.Errorf("the document does not show the words %s", v.Recovery.Words)
	}
}
