//go:build unix

package keyfile

import (
	"fmt"
	"syscall"
)

// ForbidCoreDumps keeps this process' memory, and the keys in it, from being
// written to a core file. A kernel that pipes core dumps to a program ignores it
// (core(5)); the system's own setting decides there.
func ForbidCoreDumps() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}
