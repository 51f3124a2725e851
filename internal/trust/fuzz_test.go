package trust_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"cmtpd/internal/trust"
)

// FuzzDecode: what is accepted is written again as it was, and nothing is refused with another
// error than that it is damaged. The check sum is made for each input: no fuzzer finds one.
func FuzzDecode(f *testing.F) {
	if seeds, err := filepath.Glob("testdata/fuzz/FuzzDecode/*"); err != nil || len(seeds) < 6 {
		f.Fatalf("the committed corpus is missing: %d seeds, %v", len(seeds), err)
	}
	org := domain(f, "example.org")
	f.Fuzz(func(t *testing.T, body []byte) {
		data := trust.Sum(bytes.Clone(body))
		again, err := trust.Recode(org, data)
		switch {
		case err == nil && !bytes.Equal(again, data):
			t.Errorf("%s is written as %s", data, again)
		case err != nil && !errors.Is(err, trust.ErrDamaged):
			t.Errorf("an error that is not ErrDamaged: %v", err)
		}
		if _, err := trust.Recode(org, data[:len(data)-1]); err == nil {
			t.Error("accepted without its last byte")
		}
	})
}
