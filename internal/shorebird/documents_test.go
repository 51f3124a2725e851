package shorebird_test

import (
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/shorebird"
)

// TestDocuments: every command of shorebird that README and the documents show exists, with its flags, and takes
// such arguments. (cmd/cmtpd has the same for the rest of them.)
func TestDocuments(t *testing.T) {
	program, checked := cmtptest.CommandLine{New: shorebird.Command}, 0
	for _, d := range cmtptest.ReadDocuments(t) {
		found, n := program.Problems(d)
		checked += n
		for _, text := range found {
			t.Error(text)
		}
	}
	if checked < 40 {
		t.Errorf("only %d commands were found", checked)
	}
}
