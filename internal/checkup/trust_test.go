package checkup_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

// shows lets the server of a domain show the key of each number.
func shows(t *testing.T, s *trust.Store, name string, cmtp1 bool, numbers ...byte) {
	t.Helper()
	domain, err := address.ParseDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		key, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Judge(context.Background(), domain, trust.Sighting{Shown: key.Public(), CMTP1: cmtp1, Record: trust.Record{Answer: trust.Absent}}); err != nil {
			t.Fatal(err)
		}
	}
}

// A check tells which domains are held, why, and what to do; without making or changing anything.
func TestCheck_Trust(t *testing.T) {
	cfg := datadirtest.Filled(t)
	if checked(t, cfg, ""); !missing(cfg.TrustDir()) {
		t.Error("the check has made the directory")
	}
	s, err := trust.Open(cfg.TrustDir(), trust.Options{FS: durable.OS})
	if err != nil {
		t.Fatal(err)
	}
	shows(t, s, "fine.example", true, 1)
	if wrong, _ := checked(t, cfg, ""); len(wrong) != 0 {
		t.Errorf("%q", wrong)
	}
	shows(t, s, "held.example", true, 1, 2)
	wrong, _ := checked(t, cfg, "")
	one(t, wrong, "trust: ", "held.example is held since", "known by another key", "cmtpd trust accept held.example ", "it is taken by itself")
	if err := s.Forget(datadirtest.Domain("held.example")); err != nil {
		t.Fatal(err)
	}
	shows(t, s, "fine.example", false, 1)
	wrong, _ = checked(t, cfg, "")
	one(t, wrong, "fine.example", "without it", "cmtpd trust forget fine.example")
	shows(t, s, "fine.example", true, 1)
	e, err := s.Show(datadirtest.Domain("held.example"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.File, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong, _ = checked(t, cfg, "")
	one(t, wrong, e.File, "damaged", "cmtpd trust pin")
	if err := os.Remove(e.File); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		shows(t, s, fmt.Sprintf("held%d.example", i), true, 1, 2)
	}
	if wrong, _ = checked(t, cfg, ""); len(wrong) != 20 {
		t.Errorf("%d findings of 20 holds", len(wrong))
	}
	shows(t, s, "onemore.example", true, 1, 2)
	if wrong, _ = checked(t, cfg, ""); len(wrong) != 21 || !strings.Contains(wrong[20], "1 more holds") {
		t.Errorf("%q", wrong)
	}
}

func missing(path string) bool { _, err := os.Stat(path); return os.IsNotExist(err) }
