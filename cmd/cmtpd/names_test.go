package main_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// evil is what a terminal or a log might take for more than text: an escape
// sequence, lines, a C1 control, DEL, an override of the writing direction.
const evil = "\x1b]0;owned\x07\r\nlevel=ERROR msg=forged\t\u009b2J\x7f\u202e"

// TestServe_Names: a stranger's names and log entries are data. Those that are no
// addresses are refused; none of them writes a line or steers a terminal, in
// either form of the log or the output.
func TestServe_Names(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			site := cmtptest.NewSite(t, cmtptest.Settings{"log.level": `"debug"`, "log.format": `"` + format + `"`})
			d := site.Start(t)
			accepted := []string{"..", "';rm", "$(id)`id`", "%s%n%x", "-rf", "jürgen", "用户", "A.B", "<b>", "\"q\""}
			for _, name := range accepted {
				c := greeted(t, d.Shared[0])
				c.send(t, named(name, "example.net", evil+"\x00"))
				c.success(t)
				c.Close()
			}
			refused := []string{evil, "../x", "a b", "a\nb", "\u009b", "\x7f", "\u202etxt", "a@b", "x\\y"}
			for _, name := range refused {
				c := greeted(t, d.Shared[0])
				c.send(t, named(name, "example.net", "\x00"))
				c.failure(t)
				c.send(t, named("a", name, "\x00"), "KEYREQUEST\x00"+name+"\x00"+name+"\x00", "LOGIN\x00"+name+"\x00", name+"\x00")
				for range 4 {
					c.failure(t)
				}
				c.Close()
			}
			d.Stop(t)
			clean(t, "the log", d.Log())
			if strings.Contains(d.Log(), "\nlevel=ERROR") {
				t.Errorf("a line of the log is forged:\n%s", d.Log())
			}
			for _, args := range [][]string{{"list"}, {"list", "--json"}, {"show", "0000000000000001"}, {"show", "0000000000000001", "--json"}} {
				out := site.Must(t, "", append([]string{"spool"}, args...)...)
				clean(t, fmt.Sprint(args), out)
				if !strings.Contains(out, "..@example.net") {
					t.Errorf("%v does not show the name:\n%s", args, out)
				}
			}
			list := site.Must(t, "", "spool", "list")
			equal(t, "lines of the list", strings.Count(list, "\n"), len(accepted))
		})
	}
}

// named returns MAIL and a message from a source with a log.
func named(account, domain, log string) string {
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: uint64(len(log)), BodyLength: 48,
		DestinationDomain: cmtptest.Domain, SourceAccount: account, SourceDomain: domain}
	return "MAIL\x00" + string(h.Append(nil)) + log + strings.Repeat("x", 48)
}

// clean fails on what is neither a character to be seen nor the end of a line.
func clean(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is not UTF-8", what)
	}
	for line := range strings.Lines(text) {
		for _, r := range strings.TrimSuffix(line, "\n") {
			if !unicode.IsGraphic(r) {
				t.Errorf("%s holds %U in %q", what, r, line)
				return
			}
		}
	}
}
