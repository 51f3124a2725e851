package oprf_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cmtpd/internal/oprf"
)

// requireSeeds fails when the committed corpus is missing, without which a fuzz
// target that is not fuzzing tests nothing.
func requireSeeds(f *testing.F) {
	f.Helper()
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		if info, err := os.Stat(s); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s: %v", s, err)
		}
	}
}

// FuzzElement hands any bytes to both sides. They take the same ones, in one encoding
// and never the identity, and what is evaluated is itself an element.
func FuzzElement(f *testing.F) {
	requireSeeds(f)
	k := newKey(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != oprf.ElementSize {
			return
		}
		e := oprf.Element(b)
		r, _ := mustBlind(t, "password")
		defer r.Wipe()
		evaluated, err := k.Evaluate(e)
		out, finalErr := r.Finalize(e)
		if err != nil || finalErr != nil {
			if !errors.Is(err, oprf.ErrElement) || !errors.Is(finalErr, oprf.ErrElement) || out != nil {
				t.Fatalf("%x: %v, and %v", e, err, finalErr)
			}
			return
		}
		if again, err := e.Reencode(); err != nil || again != e || e == (oprf.Element{}) {
			t.Fatalf("%x becomes %x, %v", e, again, err)
		}
		if again, err := evaluated.Reencode(); err != nil || again != evaluated {
			t.Fatalf("%x evaluates to %x: %v", e, evaluated, err)
		}
		if len(out) != oprf.OutputSize || bytes.Equal(out, make([]byte, len(out))) {
			t.Fatalf("%x comes out as %x", e, out)
		}
	})
}
