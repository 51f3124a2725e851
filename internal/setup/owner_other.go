//go:build !linux

package setup

import (
	"errors"
	"fmt"
	"os"
)

// act does it where nobody has to become another for it.
func (o Owner) act(do func() error) error {
	if os.Geteuid() == 0 && o.UID != 0 {
		return fmt.Errorf("becoming %s: %w", o.Name, errors.ErrUnsupported)
	}
	return do()
}

func withUmask(_ int, do func() error) error { return do() }
