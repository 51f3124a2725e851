//go:build !linux

package kernelring

import "time"

// Get returns ErrUnavailable: this is not Linux.
func (Ring) Get(string) ([]byte, time.Time, error) { return nil, time.Time{}, ErrUnavailable }

// Set returns ErrUnavailable.
func (Ring) Set(string, []byte, time.Time) error { return ErrUnavailable }

// Delete returns ErrUnavailable.
func (Ring) Delete(string) error { return ErrUnavailable }
