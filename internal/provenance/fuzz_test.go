package provenance_test

import (
	"os"
	"path/filepath"
	"testing"
	"unicode"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/provenance"
)

// FuzzJudge: whatever names and log come, nothing is proven without one of the two
// signatures that the test has made, and what is said is fit for a terminal.
func FuzzJudge(f *testing.F) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		if info, err := os.Stat(s); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s: %v", s, err)
		}
	}
	known := provenance.Known{Whole: true, Keys: []provenance.Key{{PublicKey: key(0).Public(), From: 4}}, Servers: []crypt.PublicKey{key(1).Public()}}
	own, vouched := sender("alice@a.example", 5, key(0), digest), origin("alice@a.example", key(1), digest)
	f.Fuzz(func(t *testing.T, account, domain string, log []byte) {
		h := cmtp.Header{SourceAccount: account, SourceDomain: domain}
		v := provenance.Judge(&h, log, digest, known)
		source, _ := provenance.SourceOf(&h)
		has := map[string]bool{}
		for _, e := range cmtp.LogEntries(log) {
			has[e] = true
		}
		switch v.Kind {
		case provenance.BySender:
			if !has[own] || source != named("alice@a.example") || v.Key != key(0).Public() {
				t.Fatalf("%q: %+v", log, v)
			}
		case provenance.ByDomain:
			if !has[vouched] || source != named("alice@a.example") || v.Key != key(1).Public() {
				t.Fatalf("%q: %+v", log, v)
			}
		case provenance.Unproven, provenance.False:
			if v.Key != (crypt.PublicKey{}) {
				t.Fatalf("%q: %+v", log, v)
			}
		default:
			t.Fatalf("%q: %+v", log, v)
		}
		for _, r := range v.Text {
			if unicode.In(r, unicode.C) || v.Text == "" {
				t.Fatalf("it says %q", v.Text)
			}
		}
	})
}
