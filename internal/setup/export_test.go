package setup

import "cmtpd/internal/durable"

// What lets a test write a configuration on a file system of its own, and look at sockets.
var (
	WriteConfigOn = func(w *Work, fsys durable.FS) error { return w.writeConfig(fsys) }
	Fill          = fill
)
