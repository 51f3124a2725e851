//go:build unix && !solaris && !aix && !netbsd

package durable

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FreeSpace returns how many bytes of a directory's file system anybody may still use.
func FreeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}
