//go:build !unix || solaris || aix || netbsd

package durable

import "errors"

// FreeSpace cannot tell here.
func FreeSpace(string) (uint64, error) { return 0, errors.ErrUnsupported }
