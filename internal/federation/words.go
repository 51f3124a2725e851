package federation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"unicode/utf8"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/discovery"
	"cmtpd/internal/letter"
)

// maxWords bounds what is repeated of another server's words, in bytes.
const maxWords = 512

// words makes a stranger's words fit to be shown: one line without anything that is not
// just seen, and cut.
func words(s string) string {
	s = letter.Line(s)
	if len(s) <= maxWords {
		return s
	}
	cut := maxWords
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// plainly says an error in as few words as a sender needs: what the other side said, or
// what is wrong, without where in the program it was noticed.
func plainly(err error) string {
	if status, ok := errors.AsType[*cmtp.StatusError](err); ok {
		if status.Reason == "" {
			return status.Status.String()
		}
		return words(status.Reason)
	}
	if e, ok := errors.AsType[*MeetError](err); ok {
		if errors.Is(err, ErrDistrusted) && e.Verdict.Why != "" {
			return e.Verdict.Why.Text()
		}
		if errors.Is(err, ErrNoCMTP) {
			return ErrNoCMTP.Error()
		}
		return plainly(e.Err)
	}
	if u, ok := errors.AsType[unreached](err); ok {
		a := u[max(0, slices.IndexFunc(u, func(a discovery.Attempt) bool { return a.Err != errPassed }))]
		return fmt.Sprintf("%s: %s", a.Server.Host, plainly(a.Err))
	}
	if e, ok := errors.AsType[*discovery.Error](err); ok {
		return words(e.Error())
	}
	if e, ok := errors.AsType[*client.GreetingError](err); ok {
		return words(e.Error())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "the server does not answer in time"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return words(fmt.Sprintf("%s: %v", e.Op, e.Err))
	}
	return words(err.Error())
}

// plainError is an error that says what plainly does, and wraps what it was.
func plainError(err error) error {
	if err == nil {
		return nil
	}
	return &plain{err}
}

type plain struct{ error }

func (p *plain) Error() string { return plainly(p.error) }
func (p *plain) Unwrap() error { return p.error }
