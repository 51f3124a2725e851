package shorebird

import (
	"strings"
	"unicode"
)

// A stranger chooses the name in an address, and it may hold $(command): it must be no more than a word where a shell completes it, and in a
// command that a person is told to give.

// isMereWord reports whether a word is nothing else to any shell, nor an option to us. Quoting does not help where a shell completes: bash puts
// what several words begin with into the line as it is.
func isMereWord(w string) bool {
	for i, r := range w {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) && r != '_' && (i == 0 || !strings.ContainsRune("@.+-=%", r)) {
			return false
		}
	}
	return true
}

// shellWord returns one line as a shell has to be told it.
func shellWord(s string) string {
	if isMereWord(s) && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
