package federation

import (
	"fmt"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/discovery"
	"cmtpd/internal/letter"
	"cmtpd/internal/queue"
)

// draft writes what a sender is told.
func draft(k kind, h *cmtp.Header, item *queue.Item, until time.Time) *letter.Draft {
	to := recipient(h)
	var b strings.Builder
	if k == failed {
		b.WriteString("Your letter could not be delivered. It will not be tried again.\n\n")
	} else {
		b.WriteString("Your letter has not been delivered yet. It is kept, and tried again and again.\n\n")
	}
	row := func(name, value string) { fmt.Fprintf(&b, "%-10s%s\n", name, value) }
	row("To:", to)
	row("Sent:", moment(item.Arrived))
	row("Size:", fmt.Sprintf("%d bytes, encrypted", item.Size))
	row("Tried:", tries(&item.State))
	if k == delayed {
		row("Until:", moment(until))
	}
	b.WriteString("\n" + said(&item.State))
	if k == failed {
		fmt.Fprintf(&b, "\nWhat you can do: %s\n", advice(&item.State))
	} else {
		b.WriteString("\nYou need not do anything. If it cannot be delivered until then, you will be told.\n")
	}
	fmt.Fprintf(&b, "\nYour letter is not repeated here, since this server cannot read it. If you ask the operator of\n"+
		"your server about it, name the number %s.\n", item.ID)
	d := &letter.Draft{Subject: "Not delivered: your letter to " + to, Text: []byte(b.String())}
	if k == delayed {
		d.Subject = "Not delivered yet: your letter to " + to
	}
	return d
}

// recipient returns the destination as people write it.
func recipient(h *cmtp.Header) string {
	s := h.DestinationAccount + "@" + h.DestinationDomain
	if a, err := address.Parse(s); err == nil {
		s = a.String()
	}
	return words(s)
}

func moment(t time.Time) string { return t.UTC().Format("Monday, 2 January 2006, 15:04:05 UTC") }

func tries(s *queue.State) string {
	switch s.Attempts {
	case 0:
		return "not at all"
	case 1:
		return "once, on " + moment(s.First)
	}
	return fmt.Sprintf("%d times, first on %s, last on %s", s.Attempts, moment(s.First), moment(s.Last))
}

// said repeats what the last attempt came to. What is another server's choice stands
// between quotation marks on a line of its own.
func said(s *queue.State) string {
	reason := words(s.Reason)
	switch {
	case s.Status != 0:
		return fmt.Sprintf("The other server said (%d, %v):\n\n    \"%s\"\n", s.Status, cmtp.Status(s.Status), reason)
	case reason != "":
		return fmt.Sprintf("The last attempt ended so:\n\n    %s\n", reason)
	}
	return "No attempt has come to an end.\n"
}

// advice says what a sender can do about a failure.
func advice(s *queue.State) string {
	switch status := cmtp.Status(s.Status); {
	case status == cmtp.StatusNoAccount:
		return "check the address for a mistake, or ask the person for the right one."
	case status == cmtp.StatusTooLarge:
		return "send less at once, for instance in several letters."
	case status == cmtp.StatusForeignDomain:
		return "check the domain in the address. If it is right, its DNS leads to a server\nthat does not serve it: only its operator can mend that."
	case strings.HasPrefix(s.Reason, ErrNoCMTP.Error()):
		return "the domain has no encrypted mail of this kind. Reach the person in another way."
	case status != 0 && !status.Temporary():
		return "ask the operator of the other domain, and tell what its server said."
	case s.Attempts > 1 && !strings.Contains(s.Reason, discovery.ErrNoName.Error()) && !strings.Contains(s.Reason, discovery.ErrNoMail.Error()):
		return "if the address is right, the other domain's server could not be used in all that\ntime. Send the letter again later, or reach the person in another way."
	}
	return "check the address, above all the domain in it, or reach the person in another way."
}
