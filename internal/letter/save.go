package letter

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxSavedName is the longest name that an attachment is saved under, in bytes:
// short enough for any file system, a number added to it included.
const maxSavedName = 200

// maxNumber is the highest number that is added to a name that is taken.
const maxNumber = 9999

// unsafe are the characters that mean something to a file system or a shell's
// glob somewhere, besides those that cannot be seen.
const unsafe = `/\:*?"<>|`

// trimEnd takes away what Windows drops from the end of a name, and whatever else is not seen there.
func trimEnd(s string) string {
	return strings.TrimRightFunc(s, func(r rune) bool { return r == '.' || unicode.IsSpace(r) })
}

// FileName returns a name to save an attachment under, whatever a stranger called
// it: not empty, no path, no leading dot or dash, no character that is not shown,
// no name of a device, at most 200 bytes with its extension kept.
func FileName(claimed string) string {
	s := strings.Map(func(r rune) rune {
		if !Visible(r) || r == utf8.RuneError || strings.ContainsRune(unsafe, r) {
			return '_'
		}
		return r
	}, norm.NFC.String(string([]rune(claimed)))) // a wrong byte would keep what follows as it is
	s = shorten(trimEnd(strings.TrimSpace(s)), maxSavedName)
	if s == "" {
		return "attachment"
	}
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "-") || isDevice(s) {
		s = "_" + shorten(s, maxSavedName-1)
	}
	return s
}

// shorten returns at most n bytes of a name, its extension among them.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	ext := path.Ext(s)
	if len(ext) > 20 {
		ext = ""
	}
	return trimEnd(cut(s, n-len(ext)) + ext)
}

// cut returns at most n bytes of s, and no half character.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// isDevice reports whether Windows takes a file of this name for a device, with
// any extension.
func isDevice(s string) bool {
	base, _, _ := strings.Cut(strings.ToUpper(s), ".")
	switch base = strings.TrimSpace(base); base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	port, ok := strings.CutPrefix(base, "COM")
	if !ok {
		port, ok = strings.CutPrefix(base, "LPT")
	}
	return ok && utf8.RuneCountInString(port) == 1 && strings.Contains("0123456789¹²³", port) // superscripts are digits there, too
}

// Save writes an attachment into dir under its FileName, or that with a number
// where the name is taken: no file is ever replaced, and no link followed. It
// returns the name. The file is for its owner only. What could not be written
// whole is removed again.
func Save(dir *os.Root, a Attachment) (string, error) {
	f, name, err := create(dir, FileName(a.Name))
	if err != nil {
		return "", fmt.Errorf("saving %q: %w", Line(a.Name), err)
	}
	_, err = io.Copy(f, io.NewSectionReader(a.Data, 0, a.Size))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("saving %s: %w", name, errors.Join(err, dir.Remove(name)))
	}
	return name, nil
}

func create(dir *os.Root, name string) (*os.File, string, error) {
	ext := path.Ext(name)
	base := strings.TrimSuffix(name, ext)
	try := name
	for n := 2; ; n++ {
		f, err := dir.OpenFile(try, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) || n > maxNumber {
			return f, try, err
		}
		try = fmt.Sprintf("%s (%d)%s", base, n, ext)
	}
}
