package federation

import (
	"errors"
	"fmt"
	"slices"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/provenance"
	"cmtpd/internal/spool"
)

// MaxReceived is how many servers a message may have come through (docs/protocol.md section
// 17.7).
const MaxReceived = 30

// What keeps a message from being handed on, for ever.
var (
	errTooFar  = fmt.Errorf("it has come through %d servers already, so it goes in a circle", MaxReceived)
	errLogFull = fmt.Errorf("its log has no room left within %d bytes", cmtp.MaxLog)
	errVouched = errors.New("its log has an origin entry already, and there can be only one")
	errSource  = errors.New("its source is not of this server's domains")
)

// A tracer writes what this server adds to the log of a message that it hands on.
type tracer struct {
	*Peers
	host string
}

// log returns the log with which a stored message is handed on: the entries that it has,
// unaltered, then how it came here, and that this server vouches for its source.
func (t *tracer) log(l *cmtp.Layout, info spool.Info) ([]byte, error) {
	source, err := provenance.SourceOf(&l.Header)
	if err != nil {
		return nil, err
	}
	if !t.isOwn(source.Domain) {
		return nil, errSource
	}
	if hops(l.Log) >= MaxReceived {
		return nil, errTooFar
	}
	if slices.ContainsFunc(cmtp.LogEntries(l.Log), crypt.IsOrigin) {
		return nil, errVouched
	}
	r := crypt.Received{By: t.host, From: info.From, At: crypt.UnixTimeOf(info.Received), ID: info.ID.String(), With: "CMTP1"}
	o := crypt.NewOrigin(info.Digest, source, crypt.UnixTimeOf(t.cfg.Now()), t.cfg.Key)
	log := l.Log
	if len(log) <= 1 { // the lone NUL that stands for no entry
		log = nil
	}
	log = append(append(append([]byte(nil), log...), r.String()...), 0)
	if log = append(append(log, o.String()...), 0); len(log) > cmtp.MaxLog {
		return nil, errLogFull
	}
	return log, nil
}

// hops is how many servers say in a log that they have handed the message on.
func hops(log []byte) (n int) {
	for _, e := range cmtp.LogEntries(log) {
		if crypt.IsReceived(e) {
			n++
		}
	}
	return n
}
