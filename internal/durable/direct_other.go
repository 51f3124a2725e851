//go:build !linux

package durable

import (
	"errors"
	"os"
)

func direct(*os.File, bool) error { return errors.ErrUnsupported }

func isUnaligned(error) bool { return false }
