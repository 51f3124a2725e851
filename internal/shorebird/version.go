package shorebird

import (
	"bytes"
	"fmt"
	"runtime/debug"
)

// Version is the software's version.
const Version = "0.1.0"

// VersionReport is what version prints with --json.
type VersionReport struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, where it is known
	Go       string `json:"go"`
}

func (r *run) version() error {
	v := VersionReport{Version: Version}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return r.report(v, func(out *bytes.Buffer) { fmt.Fprintf(out, "shorebird %s (%s)\n", v.Version, v.Go) })
}
