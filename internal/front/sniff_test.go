package front_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/front"
)

// isCMTP knows what the session does.
func isCMTP(verb string) bool { return cmtp.IsVerb([]byte(verb)) }

func TestSniff(t *testing.T) {
	line := func(n int) string { return "EHLO " + strings.Repeat("a", n-6) + "\n" }
	for _, tt := range []struct {
		name, in string
		want     front.Verdict
	}{
		{"nothing", "", front.Undecided},
		{"half a verb", "MAI", front.Undecided},
		{"verb of both", "MAIL", front.Undecided},
		{"CMTP MAIL", "MAIL\x00", front.CMTP},
		{"SMTP MAIL", "MAIL FROM:<>\r\n", front.SMTP},
		{"SMTP MAIL without its end", "MAIL FROM:<>\r", front.Undecided},
		{"CMTP NOOP", "NOOP\x00", front.CMTP},
		{"SMTP NOOP", "NOOP\r\n", front.SMTP},
		{"SMTP NOOP with a bare LF", "noop\n", front.SMTP},
		{"CMTP HELP", "HELP\x00", front.CMTP},
		{"SMTP HELP with a parameter", "HELP me\r\n", front.SMTP},
		{"CMTP STARTTLS", "STARTTLS\x00", front.CMTP},
		{"SMTP STARTTLS", "STARTTLS\r\n", front.SMTP},
		{"STARTTLS without its end", "STARTTLS", front.Undecided},
		{"CMTP AUTH", "AUTH\x00alice\x00", front.CMTP},
		{"SMTP AUTH", "AUTH PLAIN\r\n", front.SMTP},
		{"CMTP UNLOCK", "UNLOCK\x00", front.CMTP},
		{"CMTP ENROLL", "ENROLL\x00", front.CMTP},
		{"CMTP REGISTER", "REGISTER\x00", front.CMTP},
		{"CMTP UPLOAD", "UPLOAD\x00", front.CMTP},
		{"UPLOAD as a line", "UPLOAD\r\n", front.Neither},
		{"CMTP RECOVER", "RECOVER\x00", front.CMTP},
		{"CMTP LIST", "LIST\x00", front.CMTP},
		{"LIST as a line", "LIST\r\n", front.Neither},
		{"OHAI with a line end", "OHAI\x00\r\n", front.CMTP},
		{"OHAI as a line", "OHAI\r\n", front.Neither},
		{"CMTP in lower case", "ohai\x00", front.Neither},
		{"SMTP in mixed case", "eHlO there\r\n", front.SMTP},
		{"several commands", "NOOP\x00MAIL FROM:<>\r\n", front.CMTP},
		{"pipelined lines", "EHLO a\r\nMAIL FROM:<>\r\n\x00", front.SMTP},
		{"unknown CMTP verb", "EHLO\x00", front.Neither},
		{"NUL inside a line", "MAIL FROM:<\x00>\r\n", front.Neither},
		{"longer verb", "MAILS FROM\r\n", front.Neither},
		{"verb and tab", "EHLO\tx\r\n", front.Neither},
		{"HTTP", "GET / HTTP/1.1\r\n", front.Neither},
		{"HTTP that posts SMTP", "POST / HTTP/1.1\r\n\r\nMAIL FROM:<>\r\n", front.Neither},
		{"PROXY 1", "PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", front.Neither},
		{"PROXY 2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", front.Neither},
		{"TLS record", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", front.Neither},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", front.Neither},
		{"a NUL", "\x00", front.Neither},
		{"an empty line", "\r\n", front.Neither},
		{"a space first", " EHLO x\r\n", front.Neither},
		{"only letters", strings.Repeat("A", 33), front.Neither},
		{"line of 1,024 bytes", line(1024), front.SMTP},
		{"line of 1,025 bytes", line(1025), front.Neither},
		{"1,023 bytes without an end", "EHLO " + strings.Repeat("a", 1018), front.Undecided},
		{"1,024 bytes without an end", "EHLO " + strings.Repeat("a", 1019), front.Neither},
		{"MAIL of another server only", "XCLIENT ADDR=192.0.2.1\r\n", front.Neither},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := front.Sniff([]byte(tt.in), isCMTP); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// FuzzSniff: the way in which bytes arrive never matters. What any beginning of
// them has decided stays so, reading changes nothing, and what is handed on has
// the form that the protocol demands.
func FuzzSniff(f *testing.F) {
	const corpus = "testdata/fuzz/FuzzSniff"
	if seeds, err := os.ReadDir(corpus); err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in %s (%v)", corpus, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		whole := front.Sniff(b, isCMTP)
		decided := front.Undecided
		for n := range min(len(b), front.MaxFirstCommand+8) + 1 {
			v := front.Sniff(b[:n], isCMTP)
			if decided != front.Undecided && v != decided {
				t.Fatalf("%v at %d bytes, %v before", v, n, decided)
			}
			decided = v
		}
		if decided != whole {
			t.Fatalf("%v byte by byte, %v at once", decided, whole)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the bytes were changed")
		}
		first := b[:min(len(b), front.MaxFirstCommand)]
		nul, lf := bytes.IndexByte(first, 0), bytes.IndexByte(first, '\n')
		switch whole {
		case front.CMTP:
			if nul < 0 || !isCMTP(string(first[:nul])) {
				t.Fatalf("CMTP without a command: %q", first)
			}
		case front.SMTP:
			if lf < 0 || nul >= 0 && nul < lf {
				t.Fatalf("SMTP without a line: %q", first)
			}
		case front.Undecided:
			if nul >= 0 || lf >= 0 || len(b) >= front.MaxFirstCommand {
				t.Fatalf("undecided about %q", first)
			}
		}
	})
}
