package shorebird

import (
	"bytes"
	"fmt"
	"runtime/debug"

	"cmtpd/internal/version"
)

// VersionReport is what version prints with --json.
type VersionReport struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, where it is known
	Go       string `json:"go"`
}

func (r *run) version() error {
	v := VersionReport{Version: version.Number}
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
