package guess_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"cmtpd/internal/guess"
)

// FuzzParseAccount: what is accepted is written again as it was, and nothing else is
// accepted with another error than that it is damaged. The check sum is made for
// each input: no fuzzer finds one.
func FuzzParseAccount(f *testing.F) {
	needSeeds(f, "FuzzParseAccount", 6)
	f.Fuzz(func(t *testing.T, body []byte) {
		check(t, guess.Sum(bytes.Clone(body)), func(data []byte) ([]byte, error) { return guess.Recode(alice, data) })
	})
}

// FuzzParseNetworks is the same for the file of networks.
func FuzzParseNetworks(f *testing.F) {
	needSeeds(f, "FuzzParseNetworks", 5)
	f.Fuzz(func(t *testing.T, body []byte) { check(t, guess.Sum(bytes.Clone(body)), guess.RecodeTable) })
}

func check(t *testing.T, data []byte, recode func([]byte) ([]byte, error)) {
	again, err := recode(data)
	switch {
	case err == nil && !bytes.Equal(again, data):
		t.Errorf("%x is written as %x", data, again)
	case err != nil && !errors.Is(err, guess.ErrDamaged):
		t.Errorf("an error that is not ErrDamaged: %v", err)
	}
	if _, err := recode(data[:len(data)-1]); err == nil {
		t.Error("accepted without its last byte")
	}
}

func needSeeds(f *testing.F, name string, least int) {
	f.Helper()
	seeds, err := filepath.Glob("testdata/fuzz/" + name + "/*")
	if err != nil || len(seeds) < least {
		f.Fatalf("the committed corpus is missing: %d seeds, %v", len(seeds), err)
	}
}
