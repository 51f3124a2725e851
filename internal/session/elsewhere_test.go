package session_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/federation"
	"cmtpd/internal/session"
)

// asked is an Elsewhere that says how it was asked for a name. Of late it knows only by a refresh.
type asked struct{ session.Elsewhere }

func (asked) Lookup(_ context.Context, name address.Address, _ federation.Permit) (*federation.Foreign, error) {
	return saying("lookup", name)
}

func (asked) Refresh(_ context.Context, name address.Address, _ federation.Permit) (*federation.Foreign, error) {
	return saying("refresh", name)
}

func saying(how string, name address.Address) (*federation.Foreign, error) {
	if how == "lookup" && strings.HasPrefix(name.String(), "late@") {
		return nil, fmt.Errorf("%s: %w", how, federation.ErrNoAccount)
	}
	return &federation.Foreign{Payload: []byte(how + " " + name.String())}, nil
}

// Who asks for a foreign name a second time in a session is given nothing old; the first time, or as anybody else,
// not. It is so of the last 16 names that were asked for.
func TestServer_Inside_AskedAgain(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Elsewhere = asked{} }})
	c := s.inside()
	says := func(user, domain, want string) {
		t.Helper()
		if got := c.want(cmtp.StatusDone, key(user, domain)); string(got) != want {
			t.Errorf("%s@%s: %q, want %q", user, domain, got, want)
		}
	}
	for range 2 { // which do not count
		c.want(cmtp.StatusNotProven, key("dora", "other.example"))
	}
	c.auth("alice@cref.example", vectorKey(t, "alice"))
	says("dora", "other.example", "lookup dora@other.example")
	says("DORA", "Other.Example.", "refresh dora@other.example")
	says("dora", "other.example", "refresh dora@other.example")
	says("dora", "third.example", "lookup dora@third.example")
	says("", "other.example", "lookup @other.example")
	says("", "other.example", "refresh @other.example")
	c.want(cmtp.StatusNoAccount, key("late", "other.example"))
	says("late", "other.example", "refresh late@other.example")
	for range 2 {
		if got := c.want(cmtp.StatusDone, key("bob", "cref.example")); len(got) == 0 || got[0] != 0 {
			t.Errorf("of an own name: %q", got)
		}
	}

	for i := range 15 {
		user := fmt.Sprint("user", i)
		says(user, "other.example", "lookup "+user+"@other.example")
	}
	says("", "other.example", "lookup @other.example") // 16 names came after it: late, and these
	says("user0", "other.example", "refresh user0@other.example")
	says("user1", "other.example", "refresh user1@other.example")
	says("dora", "other.example", "lookup dora@other.example")
	says("user0", "other.example", "refresh user0@other.example")

	for range 20 {
		says("user0", "other.example", "refresh user0@other.example")
	}
	for i := range 16 {
		says(fmt.Sprint("other", i), "other.example", fmt.Sprintf("lookup other%d@other.example", i))
	}
	says("user0", "other.example", "lookup user0@other.example") // however often it was asked for before

	c = s.inside()
	c.auth("alice@cref.example", vectorKey(t, "alice"))
	says("dora", "other.example", "lookup dora@other.example")
}

// As many as a client asks for at once it can ask for again; one more, and none of them.
func TestServer_Inside_AskedAgain_Many(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Elsewhere = asked{} }})
	for n, again := range map[int]string{16: "refresh", 17: "lookup"} {
		c := s.inside()
		c.auth("alice@cref.example", vectorKey(t, "alice"))
		for _, how := range []string{"lookup", again} {
			for i := range n {
				user := fmt.Sprint("user", i)
				if got := c.want(cmtp.StatusDone, key(user, "other.example")); string(got) != how+" "+user+"@other.example" {
					t.Errorf("one of %d: %q, want %s", n, got, how)
				}
			}
		}
		c.end()
	}
}
