package daemon

import (
	"fmt"
	"sync/atomic"

	"cmtpd/internal/durable"
	"cmtpd/internal/status"
)

// A phase is where a daemon is between its start and its end.
type phase struct{ atomic.Int32 }

const (
	beginning int32 = iota
	serving
	ending
)

// state says how the daemon is, and whether it is ready for whoever would send it more.
func (d *daemon) state() (s status.State, ready bool) {
	bad := func(word, reason string, args ...any) (status.State, bool) {
		return status.State{Word: word, Reason: fmt.Sprintf(reason, args...), Grade: status.Bad}, false
	}
	st := d.spool.Stats()
	want := len(d.cfg.Listen.Addresses) + len(d.cfg.Listen.CMTPOnly)
	switch phase := d.phase.Load(); {
	case st.Failed:
		return bad("failed", "The spool cannot be written: nothing is acknowledged until cmtpd was started again. The log says why.")
	case phase == ending:
		return bad("stopping", "Nobody new is taken. Running sessions have until the end of shutdown_grace (%v).", d.config().ShutdownGrace)
	case phase == beginning:
		return bad("starting", "Nothing is served yet.")
	}
	if up := d.front.Stats().Listening; up < want {
		return bad("starting", "%d of %d addresses are served.", up, want)
	}
	free, err := durable.FreeSpace(d.cfg.SpoolDir())
	if err != nil {
		return bad("blind", "The free space of the spool's disk cannot be found out: %v.", err)
	}
	if need := uint64(d.config().Limits.MinFreeSpace); free < need {
		return bad("low disk", "%s are free, and limits.min_free_space is %s: mail is refused until there is room.", status.Bytes(free), status.Bytes(need))
	}
	if st.Damage > 0 {
		return status.State{Word: "damaged", Grade: status.Fair,
			Reason: fmt.Sprintf("Mail is served and taken, but %d places of the spool are damaged: see Damage in docs/operations.md.", st.Damage)}, true
	}
	if d.smtpWaits() {
		return status.State{Word: "SMTP waits", Grade: status.Fair,
			Reason: "CMTP is served. SMTP clients are told to come again: the mail server behind is away, or not fit to stand behind cmtpd. " +
				"The log says which, and cmtpd check."}, true
	}
	return status.State{Word: "ready", Reason: "Mail is served and taken.", Grade: status.Good}, true
}
