package main_test

import (
	"debug/elf"
	"testing"

	"cmtpd/internal/cmtptest"
)

// TestRelease_Static: the release needs no other file to run: no dynamic linker,
// no library.
func TestRelease_Static(t *testing.T) {
	f, err := elf.Open(cmtptest.Release(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it asks for a dynamic linker")
		}
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("it imports %v, %v", libs, err)
	}
}
