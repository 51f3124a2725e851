package channel_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/crypt"
)

// hexBytes is a JSON string of hex digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// TestCertificate_Vectors: the same key gives the same bytes, whatever version of
// Go makes them.
func TestCertificate_Vectors(t *testing.T) {
	b, err := os.ReadFile("../../testdata/cmtp-1-channel.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Certificates []struct {
			Name        string
			Seed        hexBytes `json:"ed25519_seed"`
			Public      hexBytes `json:"ed25519_public"`
			Certificate hexBytes
		}
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Certificates) < 2 {
		t.Fatalf("%d certificates", len(file.Certificates))
	}
	for _, v := range file.Certificates {
		key, err := crypt.PrivateKeyFromSeed(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		der, err := channel.Certificate(key)
		if err != nil || !bytes.Equal(der, v.Certificate) {
			t.Errorf("%s: %x, %v", v.Name, der, err)
		}
		if key.Public() != crypt.PublicKey(v.Public) || !bytes.Contains(der, v.Public) {
			t.Errorf("%s: the key is another one", v.Name)
		}
	}
}

func TestCertificate(t *testing.T) {
	der, err := channel.Certificate(testKey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckSignature(x509.PureEd25519, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
	if c.Version != 3 || c.SerialNumber.Int64() != 1 || c.Subject.String() != "CN=CMTP" || c.Issuer.String() != "CN=CMTP" || len(c.Extensions) != 0 {
		t.Errorf("version %d, number %v, subject %v, issuer %v, %d extensions", c.Version, c.SerialNumber, c.Subject, c.Issuer, len(c.Extensions))
	}
	if c.NotBefore.Unix() != 0 || c.NotAfter.Format(time.RFC3339) != "9999-12-31T23:59:59Z" {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
}
