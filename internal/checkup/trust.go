package checkup

import (
	"context"
	"fmt"
	"time"

	"cmtpd/internal/control"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

// trust tells which domains are held, and why.
func (c *checkup) trust(context.Context) (found []Finding) {
	var all []trust.Entry
	var err error
	if c.running != nil {
		all, err = control.Dial(c.cfg.ControlSocket()).Trust().List()
	} else {
		all, err = trust.Read(c.cfg.TrustDir(), durable.OS, time.Now())
	}
	if err != nil {
		return problem(err.Error(), c.asOwner(err, "look at the disk and the daemon's log"))
	}
	return heldFindings(all)
}

func heldFindings(all []trust.Entry) (found []Finding) {
	more := 0
	for _, e := range all {
		for _, h := range e.Holding {
			if len(found) < few {
				found = append(found, heldFinding(e, h))
			} else {
				more++
			}
		}
	}
	if more > 0 {
		found = append(found, Finding{Text: fmt.Sprintf("%d more holds of other domains", more), Remedy: "run: cmtpd trust list --held"})
	}
	return found
}

func heldFinding(e trust.Entry, h trust.Hold) Finding {
	if e.State == nil {
		return Finding{Text: fmt.Sprintf("%s is damaged, and its domain is held: %s", e.File, e.Damage),
			Remedy: "restore the file, or once the log has said whose mail waits, compare that domain's key and run: cmtpd trust pin DOMAIN KEY"}
	}
	domain := e.State.Domain
	f := Finding{Text: fmt.Sprintf("mail to and from %s is held since %s: %s", domain, h.Since.Format(time.DateTime+" MST"), h.Why.Text())}
	if h.Why == trust.Downgraded {
		f.Remedy = fmt.Sprintf("ask its operator; if it has given up CMTP 1, run: cmtpd trust forget %s", domain)
		return f
	}
	f.Text += fmt.Sprintf(" (%s, last seen %s)", h.Key, h.Last.Format(time.DateTime+" MST"))
	f.Remedy = fmt.Sprintf("compare the fingerprint with its operator, by voice, and run: cmtpd trust accept %s %s", domain, h.Key.Base64())
	if !h.Until.IsZero() {
		f.Remedy += fmt.Sprintf("; if no other key is seen until %s, it is taken by itself", h.Until.Format(time.DateTime+" MST"))
	}
	return f
}
