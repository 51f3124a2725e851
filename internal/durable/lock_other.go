//go:build !unix || solaris || aix

package durable

import (
	"errors"
	"os"
)

// lock refuses: without flock two writers could not be kept apart.
func lock(*os.File) error { return errors.ErrUnsupported }

// lockShared refuses as lock does.
func lockShared(*os.File) error { return errors.ErrUnsupported }
