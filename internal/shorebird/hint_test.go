package shorebird_test

import (
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
)

// refuses lets a server refuse one command, once what it returns is true.
func (h *house) refuses(verb cmtp.Verb, status cmtp.Status, reason string) *atomic.Bool {
	var on atomic.Bool
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != verb || !on.Load() {
			return false, nil
		}
		return true, c.Fail(status, reason)
	}
	return &on
}

// What a server refuses is told in the words of who reads it, with what to do.
func TestHints(t *testing.T) {
	words := "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
	tests := map[string]struct {
		verb   cmtp.Verb
		status cmtp.Status
		stdin  string
		args   []string
		code   int
		says   []string
	}{
		"NoRecoveryCopy": {cmtp.Recover, cmtp.StatusNoAccount, words, []string{"recover", alice, "--words-stdin"}, refused,
			[]string{"No recovery key was made for " + alice, "shorebird passwd", "operator"}},
		"TooOftenUnlock": {cmtp.Unlock, cmtp.StatusTooOften, "", []string{"recover", alice}, temporary, []string{"sealed keys of " + alice, "when the server says"}},
		"TooOftenUpload": {cmtp.Unlock, cmtp.StatusTooOften, "", []string{"passwd", alice}, temporary, []string{"when the server says"}},
		"TooOftenLogin":  {cmtp.Login, cmtp.StatusTooOften, "", []string{"recover", alice}, temporary, []string{"when the server says"}},
		"Trouble":        {cmtp.Unlock, cmtp.StatusTrouble, "", []string{"recover", alice}, temporary, []string{"If it stays so"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := privateHouse(t, alice)
			refusing := h.refuses(tt.verb, tt.status, "wait for 5m")
			p := h.device(t, h.Start(t))
			if tt.args[0] == "passwd" {
				p.want(ok, "", []string{"recover", alice})
			}
			refusing.Store(true)
			p.want(tt.code, tt.stdin, tt.args, tt.says...)
			if m := regexp.MustCompile(`(?m)^shorebird: .*(xzibit|sealing).*`).FindString(p.err.String()); m != "" {
				t.Errorf("it says %q", m)
			}
		})
	}
}

// A secret that is too long is wrong use, as a code is that is too short.
func TestSecrets_TooLong(t *testing.T) {
	h := privateHouse(t, alice)
	p := h.device(t, h.Start(t))
	p.want(usage, strings.Repeat("x", 1025), []string{"register", bob, "--code-stdin"}, "more than 1024 bytes")
	p.want(usage, strings.Repeat("x", 1025), []string{"recover", alice, "--words-stdin"}, "more than 1024 bytes")
	p.passwordFile(strings.Repeat("x", 1024) + "\n" + strings.Repeat("y", 1025))
	p.want(password, "", []string{"recover", alice}, "do not open: wrong password")
	p.want(password, "", []string{"passwd", alice}, "do not open: wrong password")
	p.passwordFile(strings.Repeat("x", 1025))
	p.want(usage, "", []string{"recover", alice}, "longer than 1024 bytes", "choose a shorter one")
}
