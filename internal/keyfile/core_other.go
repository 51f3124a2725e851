//go:build !unix

package keyfile

// ForbidCoreDumps does nothing: there are no core files here.
func ForbidCoreDumps() error { return nil }
