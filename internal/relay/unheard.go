package relay

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/config"
)

// errUnheard: the backend takes the PROXY header for a command, as one does that was told to
// expect none since it was asked at the start. What it says then would be its answer to the
// client's greeting, and refuse for good (5xx) mail that is only to come later.
var errUnheard = errors.New("relay: the backend does not expect a PROXY header, or not of this version: cmtpd check says which it expects")

// errGone: the backend has greeted, and was gone before its first reply.
var errGone = errors.New("relay: the backend is gone without an answer to the client's first command")

// errGoneHeader is errGone behind a header. In one of version 2 stands a QUIT, upon which a Postfix that expects none
// goes, and the reset of its connection may overtake what it said of the header.
var errGoneHeader = fmt.Errorf("%w, as one is that does not expect a PROXY header, or not of this version: cmtpd check says which it expects", errGone)

// A guard looks at the first that a backend says in a session. Where that is a complaint of the header, or nothing at all,
// the client hears instead that there is no mail server. The zero guard lets all pass.
type guard struct {
	farewell []byte // nil: nothing is looked at, or no more
	hello    bool   // a complaint can only be of the header
	silence  error  // what it is if the backend says nothing
	err      error  // why the client has heard the farewell, or nil
	linger   time.Duration
	cut      func() // the stream, when the client has not gone linger after the farewell
}

// guard returns the guard of a session that begins with what a client has said first. Only behind
// a header, and a greeting of mere words, can a complaint be of nothing else.
func (r *Relay) guard(first []byte) guard {
	g := guard{farewell: r.away, silence: errGone, linger: r.linger}
	if r.cfg.Proxy != config.ProxyNone {
		g.hello, g.silence = plainHello(first), errGoneHeader
	}
	return g
}

// look returns what to send in the place of b, the next that the backend has said, and whether
// nothing more is to come.
func (g *guard) look(b []byte) (instead []byte, last bool) {
	switch {
	case g.err != nil:
		return nil, true
	case g.farewell == nil || len(b) == 0:
		return b, false
	}
	instead, g.farewell = g.farewell, nil
	if g.hello && unknownCommand(b) {
		g.putOff(errUnheard)
		return instead, true
	}
	return b, false
}

// gone is called when the backend says no more. Where it has said nothing, say tells the client; that is the session's end
// only if the client could be told: where both are cut off, nobody was left alone. left is that the client has ended before, as
// one may in the middle of a command (RFC 3030's BDAT): then the backend has nothing to answer, and did not fail.
func (g *guard) gone(left bool, say func([]byte) error) {
	if g.farewell == nil {
		return
	}
	farewell := g.farewell
	if g.farewell = nil; say(farewell) == nil && !left {
		g.putOff(g.silence)
	}
}

// putOff notes why the session ends. A client that does not leave must not keep that from the log, nor its place.
func (g *guard) putOff(why error) {
	g.err = why
	time.AfterFunc(g.linger, g.cut)
}

// synchronization is what Exim says to who has spoken first, as only the PROXY header does. It may
// be the greeting.
var synchronization = []byte("554 SMTP synchronization error")

// unknownCommand reports whether a reply is of those by which servers say that they do not know a
// command (RFC 5321 section 4.2.4), or Exim's: none of them answers EHLO or HELO so.
func unknownCommand(reply []byte) bool {
	if bytes.HasPrefix(reply, synchronization) {
		return true
	}
	for _, code := range []string{"500", "502"} {
		if rest, ok := bytes.CutPrefix(reply, []byte(code)); ok && len(rest) > 0 && (rest[0] == ' ' || rest[0] == '-') {
			return true
		}
	}
	return false
}

// maxHello is what a name in DNS can take, and the command before it.
const maxHello = 5 + 255

// plainHello reports whether a client has said EHLO or HELO with a name or an address, and waits:
// another one a server may well refuse as no command at all, and one who does not wait, too.
func plainHello(first []byte) bool {
	line, more, ok := bytes.Cut(first, []byte("\r\n"))
	if !ok || len(more) > 0 || len(line) > maxHello || len(line) < 6 || !bytes.EqualFold(line[:5], []byte("EHLO ")) && !bytes.EqualFold(line[:5], []byte("HELO ")) {
		return false
	}
	for _, c := range line[5:] {
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || bytes.IndexByte([]byte("-._:[]"), c) >= 0) {
			return false
		}
	}
	return true
}
