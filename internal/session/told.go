package session

import (
	"encoding/hex"
	"log/slog"
	"strings"

	"cmtpd/internal/spool"
)

// A core is a message's core digest in the log, in the form of spool list and of receipts: it is the same at
// every server that the message comes to.
type core [32]byte

// LogValue implements slog.LogValuer.
func (c core) LogValue() slog.Value { return slog.StringValue(hex.EncodeToString(c[:])) }

// maxTold is how many messages a line tells of.
const maxTold = 32

// noteFetched notes for the log that a message was sent to its reader, to its end. What a client fetches at once is
// told together: a line for each would cost more than the fetching.
func (s *session) noteFetched(id spool.ID) {
	if s.fetched = append(s.fetched, id); len(s.fetched) == maxTold {
		s.tellFetched()
	}
}

// tellFetched tells the log of the messages that were fetched since the last line.
func (s *session) tellFetched() {
	if len(s.fetched) == 0 {
		return
	}
	s.dialect.(*part2).tellOf("messages fetched", s.fetched)
	s.fetched = nil
}

// tellOf tells the log what became of some messages of the session's user.
func (p *part2) tellOf(text string, ids []spool.ID) {
	for len(ids) > 0 {
		n := min(len(ids), maxTold)
		var names strings.Builder
		for i, id := range ids[:n] {
			if i > 0 {
				names.WriteByte(' ')
			}
			names.WriteString(id.String())
		}
		p.cfg.Log.Info(text, "conn", p.client.conn, "client", p.client.addr, "message", names.String(), "account", p.user.name.String())
		ids = ids[n:]
	}
}
