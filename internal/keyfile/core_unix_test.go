//go:build unix

package keyfile_test

import (
	"syscall"
	"testing"

	"cmtpd/internal/keyfile"
)

func TestForbidCoreDumps(t *testing.T) {
	if err := keyfile.ForbidCoreDumps(); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("the limit is %+v, %v; want 0", limit, err)
	}
}
