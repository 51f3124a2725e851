package letter

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
)

// Two joiners are the only invisible characters that ordinary text needs: scripts
// of Asia and emoji are spelled with them.
const (
	zeroWidthNonJoiner = '\u200C'
	zeroWidthJoiner    = '\u200D'
)

// Visible reports whether a terminal shows r as a character and does nothing else:
// no control and so no escape sequence, no bidi override, no other invisible format
// character but the joiners, no line or paragraph separator, nothing private.
func Visible(r rune) bool {
	if r == zeroWidthNonJoiner || r == zeroWidthJoiner {
		return true
	}
	return !unicode.In(r, unicode.C, unicode.Zl, unicode.Zp)
}

// Line returns s fit for one line of a terminal: U+FFFD stands for each character
// that would not just be shown, line breaks and tabs included.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if !Visible(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// Text returns a letter's text fit for a terminal: as Line, but with its line
// breaks, also those written as CR LF, and tabs.
func Text(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !Visible(r) {
			return utf8.RuneError
		}
		return r
	}, string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))))
}

// Claim says in words who a letter claims to be from. In CMTP 0.01 anybody can
// claim anything, and the words say so.
func Claim(h cmtp.Header) string {
	if h.SourceAccount == "" && h.SourceDomain == "" {
		return "does not say who it is from"
	}
	if d, err := address.ParseDomain(h.SourceDomain); err == nil && h.SourceAccount == "" {
		return fmt.Sprintf("claims to be from the server of %s itself, unproven", d)
	}
	source := h.SourceAccount + "@" + h.SourceDomain
	a, err := address.Parse(source)
	if err != nil {
		return fmt.Sprintf("claims to be from %q, unproven, and that is no address", Line(source))
	}
	return fmt.Sprintf("claims to be from %s, unproven", a)
}
