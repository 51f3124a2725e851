package shorebird

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
)

// show tells a person what is attached.
func (o *office) show(files []cache.File) {
	if !o.run.ErrIsTerminal {
		return
	}
	for _, f := range files {
		o.run.note("Attachment: %s, %s, %s", letter.Line(f.Name), size(f.Size), kindOf(f))
	}
}

// size says to a person how many bytes there are.
func size(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// kindOf guesses what a file is: by its name, or else by its first bytes.
func kindOf(f cache.File) string {
	kind := typeOf(f.Name)
	if kind == unknownType && f.Path != "" {
		kind = sniff(f.Path)
	}
	kind, _, _ = strings.Cut(kind, ";")
	return letter.Line(kind)
}

// unknownType is the media type of anything.
const unknownType = "application/octet-stream"

func sniff(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return unknownType
	}
	defer f.Close()
	head := make([]byte, 512)
	n, _ := f.Read(head)
	return http.DetectContentType(head[:n])
}
