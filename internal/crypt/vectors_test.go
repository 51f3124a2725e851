package crypt_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"cmtpd/internal/crypt"
)

// hexBytes is a JSON string of hex digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type keyVector struct {
	Seed          hexBytes `json:"ed25519_seed"`
	Public        hexBytes `json:"ed25519_public"`
	Secret        hexBytes `json:"ed25519_secret"`
	X25519Public  hexBytes `json:"x25519_public"`
	X25519Private hexBytes `json:"x25519_secret"`
}

type sealedVector struct {
	Name      string
	Ephemeral hexBytes `json:"ephemeral_secret"`
	Plaintext hexBytes
	Sealed    hexBytes
}

type replyVector struct {
	Name      string
	Signed    hexBytes `json:"signed_bytes"`
	Signature hexBytes
}

// vectors is what of the test vectors concerns this package. All of them were made
// with libsodium.
type vectors struct {
	Keys   map[string]keyVector
	Sealed struct {
		Fixed     []sealedVector
		Random    sealedVector
		Recipient string
	}
	Replies  []replyVector       `json:"replies_documents_2016"`
	WithNull map[string]hexBytes `json:"signature_of_word_with_null"`
}

func loadVectors(t *testing.T) vectors {
	t.Helper()
	b, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Keys) < 3 || len(v.Sealed.Fixed) < 3 || len(v.Replies) < 5 || len(v.WithNull) < 2 {
		t.Fatal("vectors are missing")
	}
	return v
}

func (v vectors) private(t *testing.T, name string) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.ParsePrivateKey(v.Keys[name].Secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVectors_Keys(t *testing.T) {
	for name, v := range loadVectors(t).Keys {
		k, err := crypt.PrivateKeyFromSeed(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		if pub := k.Public(); !bytes.Equal(pub[:], v.Public) || !bytes.Equal(k.Bytes(), v.Secret) {
			t.Errorf("%s: the seed grows into another key", name)
		}
		pk, err := crypt.ParsePublicKey(v.Public)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		u, err := crypt.ToX25519(pk)
		if err != nil || !bytes.Equal(u[:], v.X25519Public) {
			t.Errorf("%s: public key maps to %x, %v", name, u, err)
		}
		private, public := k.X25519()
		private[0] &= 248
		private[31] = private[31]&127 | 64
		if !bytes.Equal(private, v.X25519Private) || !bytes.Equal(public, v.X25519Public) {
			t.Errorf("%s: private key maps to another", name)
		}
	}
}

func TestVectors_Sealed(t *testing.T) {
	v := loadVectors(t)
	k := v.private(t, v.Sealed.Recipient)
	for _, s := range v.Sealed.Fixed {
		box, err := crypt.SealWith(s.Plaintext, k.Public(), s.Ephemeral)
		if err != nil || !bytes.Equal(box, s.Sealed) {
			t.Errorf("%s: sealed to %x, %v", s.Name, box, err)
		}
		sealer, err := crypt.NewSealerWith(bytes.NewReader(s.Plaintext), int64(len(s.Plaintext)), k.Public(), s.Ephemeral)
		if err != nil {
			t.Fatal(err)
		}
		var stream bytes.Buffer
		if _, err := sealer.WriteTo(&stream); err != nil || !bytes.Equal(stream.Bytes(), s.Sealed) {
			t.Errorf("%s: streamed to %x, %v", s.Name, stream.Bytes(), err)
		}
	}
	for _, s := range append(v.Sealed.Fixed, v.Sealed.Random) {
		got, err := k.Open([]byte("before "), s.Sealed)
		if err != nil || string(got) != "before "+string(s.Plaintext) {
			t.Errorf("%s: opened to %q, %v", s.Name, got, err)
		}
	}
}

func TestVectors_Signatures(t *testing.T) {
	v := loadVectors(t)
	server := v.private(t, "server")
	replies := v.Replies
	for word, sig := range v.WithNull {
		replies = append(replies, replyVector{word + " and a null", append([]byte(word), 0), sig})
	}
	for _, r := range replies {
		sig := server.Sign(r.Signed)
		if !bytes.Equal(sig[:], r.Signature) {
			t.Errorf("%s: signature is %x", r.Name, sig)
		}
		if !crypt.Verify(server.Public(), r.Signed, crypt.Signature(r.Signature)) {
			t.Errorf("%s: the signature is refused", r.Name)
		}
		if crypt.Verify(server.Public(), append(r.Signed, 0), crypt.Signature(r.Signature)) {
			t.Errorf("%s: the signature holds for other bytes", r.Name)
		}
	}
}
