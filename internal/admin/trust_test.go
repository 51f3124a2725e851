package admin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cmtpd/internal/admin"
	"cmtpd/internal/crypt"
	"cmtpd/internal/trust"
)

// Wherever a key is shown, what people compare by voice stands beside it: ten groups of four digits.
func TestViewTrust_Fingerprints(t *testing.T) {
	public := func(n byte) trust.Public {
		key, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
		if err != nil {
			t.Fatal(err)
		}
		return trust.Public{PublicKey: key.Public()}
	}
	e := trust.Entry{
		State: &trust.State{
			Domain: alice.Domain, Keys: []trust.Key{{Key: public(1), Provenance: trust.DNS}}, Successor: &trust.Successor{Key: public(2)},
			Candidate: &trust.Successor{Key: public(3)}, Pending: []trust.Pending{{Key: public(4)}},
			Actions: []trust.Action{{Do: "pin", Key: public(5)}},
		},
		Holding: []trust.Hold{{Key: public(6), Why: trust.Changed}},
	}
	data, err := json.Marshal(admin.ViewTrust(e))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for n := byte(1); n <= 6; n++ {
		key := public(n)
		print := strings.Fields(key.String())
		if len(print) != 10 || len(strings.Join(print, "")) != 40 {
			t.Errorf("fingerprint %q", key)
		}
		shown += strings.Count(string(data), fmt.Sprintf(`"key":%q,"fingerprint":%q`, key.Base64(), key.String()))
	}
	if shown != 6 {
		t.Errorf("%d keys have their fingerprint beside them:\n%s", shown, data)
	}
}
