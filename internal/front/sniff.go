package front

// MaxFirstCommand is how many bytes the first command may have, its terminator
// included (protocol.md section 1).
const MaxFirstCommand = 1024

// A Verdict says what protocol a connection speaks.
type Verdict int

// What Sniff says.
const (
	Undecided Verdict = iota // more bytes are needed
	SMTP
	CMTP
	Neither // and never will be
)

func (v Verdict) String() string {
	return [...]string{"undecided", "smtp", "cmtp", "neither"}[v]
}

// longestVerb bounds the first word. No verb of either protocol comes near it.
const longestVerb = 32

// smtpVerbs are the commands of RFC 5321 and of the extensions in the IANA
// registry of SMTP service extensions that bring a command of their own. A verb
// that only a mail server's own hosts may use (XCLIENT, XFORWARD) is left out.
var smtpVerbs = map[string]bool{
	"EHLO": true, "HELO": true, "MAIL": true, "RCPT": true, "DATA": true, "RSET": true, // RFC 5321
	"VRFY": true, "EXPN": true, "HELP": true, "NOOP": true, "QUIT": true,
	"SEND": true, "SOML": true, "SAML": true, "TURN": true, // RFC 821
	"ETRN": true, "ATRN": true, // RFC 1985, RFC 2645
	"BDAT": true, "BURL": true, // RFC 3030, RFC 4468
	"STARTTLS": true, "AUTH": true, // RFC 3207, RFC 4954
	"VERB": true, "ONEX": true, // registered without an RFC
}

// Sniff decides by the first command which protocol b is the beginning of
// (protocol.md section 1). A verb that isCMTP knows, in exactly these bytes and
// ended by a NUL, is CMTP; a line that an SMTP verb in any case begins, ended by
// an LF, is SMTP; everything else is neither, as soon as that is certain. Once
// decided, no byte that follows changes the verdict.
func Sniff(b []byte, isCMTP func(verb string) bool) Verdict {
	b = b[:min(len(b), MaxFirstCommand)]
	n := 0
	for n < len(b) && isLetter(b[n]) {
		n++
	}
	switch {
	case n > longestVerb:
		return Neither
	case n == len(b):
		return Undecided
	case b[n] == 0:
		if isCMTP(string(b[:n])) {
			return CMTP
		}
		return Neither
	case b[n] != ' ' && b[n] != '\r' && b[n] != '\n', !isSMTP(b[:n]):
		return Neither
	}
	for _, c := range b[n:] {
		switch c {
		case '\n':
			return SMTP
		case 0: // RFC 5321 section 4.1.2 has no NUL in a command line
			return Neither
		}
	}
	if len(b) == MaxFirstCommand {
		return Neither
	}
	return Undecided
}

func isLetter(c byte) bool {
	c |= 0x20
	return 'a' <= c && c <= 'z'
}

// isSMTP reports whether verb, letters only, is an SMTP verb in any case.
func isSMTP(verb []byte) bool {
	var upper [longestVerb]byte
	for i, c := range verb {
		upper[i] = c &^ 0x20
	}
	return smtpVerbs[string(upper[:len(verb)])]
}
