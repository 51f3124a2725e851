package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// What needs nobody's proof is answered so, each on a channel of its own, and the
// stream is in step behind it.
func TestServer_Inside_Statuses(t *testing.T) {
	s := serve(t, setup{})
	full := bytes.Repeat([]byte{0xff}, 96)
	long := strings.Repeat("a", 256)
	for name, tt := range map[string]struct {
		send string
		want cmtp.Status
	}{
		"OHAI":                      {"OHAI\x00", cmtp.StatusDone},
		"NOOP":                      {"NOOP\x00", cmtp.StatusDone},
		"HELP":                      {"HELP\x00", cmtp.StatusDone},
		"LOGIN":                     {login("alice"), cmtp.StatusDone},
		"LOGIN, unknown":            {login("nobody"), cmtp.StatusNoAccount},
		"LOGIN, disabled":           {login("dave"), cmtp.StatusNoAccount},
		"LOGIN, foreign":            {login("alice@other.example"), cmtp.StatusForeignDomain},
		"LOGIN, no name":            {login("a\x1bb"), cmtp.StatusBadParameter},
		"unknown":                   {"BREW\x00", cmtp.StatusUnknownCommand},
		"lower case":                {"noop\x00", cmtp.StatusUnknownCommand},
		"STARTTLS":                  {"STARTTLS\x00", cmtp.StatusNotNow},
		"KEYREQUEST, unknown":       {key("nobody", ""), cmtp.StatusNoAccount},
		"KEYREQUEST, foreign":       {key("alice", "other.example"), cmtp.StatusForeignDomain},
		"KEYREQUEST, no domain":     {key("alice", "cref example"), cmtp.StatusBadParameter},
		"KEYREQUEST, no account":    {key("a b", ""), cmtp.StatusBadParameter},
		"AUTH, nobody":              {command(cmtp.Auth, "nobody@cref.example", "cref.example", full...), cmtp.StatusNoAccount},
		"AUTH, wrong":               {command(cmtp.Auth, "alice@cref.example", "cref.example", full...), cmtp.StatusWrongProof},
		"AUTH, other server":        {command(cmtp.Auth, "alice@cref.example", "other.example", full...), cmtp.StatusForeignDomain},
		"AUTH, no server":           {command(cmtp.Auth, "alice@cref.example", "", full...), cmtp.StatusBadParameter},
		"AUTH, two domains":         {command(cmtp.Auth, "alice@cref.example", "second.example", full...), cmtp.StatusBadParameter},
		"UNLOCK, older form":        {command(cmtp.Unlock, "alice@cref.example", "", full[:32]...), cmtp.StatusNotNow},
		"UNLOCK, unknown":           {command(cmtp.Unlock, "nobody@cref.example", "", full[:32]...), cmtp.StatusNoAccount},
		"UNLOCK, alias":             {command(cmtp.Unlock, "sales@cref.example", "", full[:32]...), cmtp.StatusNoAccount},
		"UNLOCK, empty":             {command(cmtp.Unlock, "@cref.example", "", full[:32]...), cmtp.StatusBadParameter},
		"UNLOCK, foreign":           {command(cmtp.Unlock, "alice@other.example", "", full[:32]...), cmtp.StatusForeignDomain},
		"ENROLL, nobody":            {command(cmtp.Enroll, "nobody@cref.example", "000000000000", full[:32]...), cmtp.StatusBadInvitation},
		"ENROLL, foreign":           {command(cmtp.Enroll, "x@other.example", "000000000000", full[:32]...), cmtp.StatusForeignDomain},
		"REGISTER, not enrolled":    {command(cmtp.Register, "x@cref.example", "000000000000") + form([]byte("OBAI\x00")), cmtp.StatusNotNow},
		"REGISTER, foreign":         {command(cmtp.Register, "x@other.example", "000000000000") + form(nil), cmtp.StatusForeignDomain},
		"REGISTER, longest form":    {command(cmtp.Register, "x@cref.example", "000000000000") + form(make([]byte, cmtp.MaxForm)), cmtp.StatusNotNow},
		"UPLOAD, nobody":            {"UPLOAD\x00" + form([]byte("OBAI\x00")), cmtp.StatusNotProven},
		"RECOVER, no copy":          {command(cmtp.Recover, "alice@cref.example", "", full...), cmtp.StatusNoAccount},
		"RECOVER, unknown":          {command(cmtp.Recover, "nobody@cref.example", "", full...), cmtp.StatusNoAccount},
		"RECOVER, foreign":          {command(cmtp.Recover, "alice@other.example", "", full...), cmtp.StatusForeignDomain},
		"MAIL":                      {"MAIL\x00" + message(t, to("alice@cref.example"), sealed("m", 100)), cmtp.StatusDone},
		"MAIL, unknown":             {"MAIL\x00" + message(t, to("nobody@cref.example"), sealed("m", 100)), cmtp.StatusNoAccount},
		"MAIL, foreign":             {"MAIL\x00" + message(t, to("alice@other.example"), sealed("m", 100)), cmtp.StatusNotProven},
		"MAIL, no domain":           {"MAIL\x00" + message(t, to("alice@"), sealed("m", 100)), cmtp.StatusBadParameter},
		"MAIL, not encrypted":       {"MAIL\x00" + message(t, cmtp.Header{DestinationAccount: "alice", DestinationDomain: "cref.example", SourceDomain: "other.example"}, "x"), cmtp.StatusBadSystem},
		"longest names, no account": {key(long[1:], long[1:]), cmtp.StatusBadParameter},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.inside()
			c.want(tt.want, tt.send)
			c.want(cmtp.StatusDone, "\x00\r\nNOOP\x00")
			c.end()
		})
	}
}

// Behind these the stream cannot be read on: one reply, then the announced end.
func TestServer_Inside_Ends(t *testing.T) {
	s := serve(t, setup{})
	system, huge := []byte(message(t, to("alice@cref.example"), sealed("m", 100))), message(t, to("alice@cref.example"), sealed("m", 100))
	system[3] = 9
	huge = huge[:16] + "\x00\xff\xff\xff\xff\xff\xff\xff" + huge[24:]
	short := message(t, to("alice@cref.example"), sealed("m", 100))
	short = short[:16] + "\x00\x00\x00\x00\x00\x00\x00\x05" + short[24:]
	alice := vectorKey(t, "alice")
	for name, tt := range map[string]struct {
		send  string
		want  cmtp.Status
		proof bool
	}{
		"parameter":               {send: "LOGIN\x00" + strings.Repeat("a", 256), want: cmtp.StatusBadParameter},
		"third parameter":         {send: command(cmtp.Auth, "alice@cref.example", strings.Repeat("a", 256))[:280], want: cmtp.StatusBadParameter},
		"verb":                    {send: strings.Repeat("A", 33), want: cmtp.StatusBadParameter},
		"form, of nobody":         {send: "UPLOAD\x00\x00\x02\x10\x01", want: cmtp.StatusNotProven},
		"form, not enrolled":      {send: command(cmtp.Register, "x@cref.example", "0") + "\xff\xff\xff\xff", want: cmtp.StatusNotNow},
		"form":                    {send: "UPLOAD\x00\x00\x02\x10\x01", want: cmtp.StatusBadParameter, proof: true},
		"form, and what it holds": {send: "UPLOAD\x00\xff\xff\xff\xff" + strings.Repeat("NOOP\x00", 1000), want: cmtp.StatusBadParameter, proof: true},
		"crypto system":           {send: "MAIL\x00" + string(system), want: cmtp.StatusBadSystem},
		"too large":               {send: "MAIL\x00" + huge, want: cmtp.StatusTooLarge},
		"not well-formed":         {send: "MAIL\x00" + short, want: cmtp.StatusBadMessage},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.inside()
			if tt.proof {
				c.auth("alice@cref.example", alice)
			}
			c.want(tt.want, tt.send)
			c.expectEnd()
		})
	}
	c := s.inside()
	c.send(strings.Repeat("BREW\x00", 10) + "NOOP\x00")
	for range 10 {
		c.expect(cmtp.StatusUnknownCommand, "BREW")
	}
	c.expectEnd()
}

// A form that is no form is refused, whole, and the session goes on.
func TestServer_Inside_BadForms(t *testing.T) {
	s := serve(t, setup{})
	alice := s.account("alice@cref.example")
	digest := alice.XzibitDigest()
	good := (&cmtp.UploadForm{Replaces: digest, Xzibit: alice.Xzibit}).Append(nil)
	keyed := *alice.Statement()
	key := vectorKey(t, "alice")
	cut := (&cmtp.UploadForm{Replaces: digest, Statement: &keyed, Xzibit: alice.Xzibit}).Append(nil)
	unnormal := bytes.Replace(cut, []byte("alice\x00"), []byte("Alice\x00"), 1)
	c := s.inside()
	c.auth("alice@cref.example", key)
	for name, tt := range map[string]struct {
		form []byte
		want cmtp.Status
	}{
		"empty":                {nil, cmtp.StatusBadParameter},
		"a byte":               {good[:1], cmtp.StatusBadParameter},
		"the last byte lacks":  {good[:len(good)-1], cmtp.StatusBadParameter},
		"a byte more":          {append(slices.Clone(good), 0), cmtp.StatusBadParameter},
		"no xzibit":            {append(slices.Clone(good[:33]), make([]byte, 8)...), cmtp.StatusBadParameter},
		"flag":                 {append(append(slices.Clone(good[:32]), 2), good[33:]...), cmtp.StatusBadParameter},
		"statement cut":        {cut[:60], cmtp.StatusBadStatement},
		"name not normal":      {unnormal, cmtp.StatusBadStatement},
		"as long as may be":    {make([]byte, cmtp.MaxForm), cmtp.StatusBadParameter},
		"full of OBAI":         {bytes.Repeat([]byte("OBAI\x00"), 1000), cmtp.StatusBadParameter},
		"digest":               {append(make([]byte, 32), good[32:]...), cmtp.StatusStale},
		"statement does not f": {cut, cmtp.StatusBadStatement},
	} {
		t.Run(name, func(t *testing.T) {
			c.tb = t
			c.want(tt.want, "UPLOAD\x00"+form(tt.form))
			c.want(cmtp.StatusDone, "NOOP\x00")
		})
	}
	if now := s.account("alice@cref.example"); now.XzibitDigest() != digest || now.Key != alice.Key {
		t.Error("a refused form has changed the account")
	}
}

// A hundred commands at once, MAIL with its message and forms among them, are answered
// one by one and in their order.
func TestServer_Inside_Pipelining(t *testing.T) {
	s := serve(t, setup{})
	c := s.inside()
	e, _ := blind(t, "x")
	kinds := []struct {
		send string
		want cmtp.Status
	}{
		{"NOOP\x00", cmtp.StatusDone},
		{"\r\n" + key("alice", ""), cmtp.StatusDone},
		{"MAIL\x00" + message(t, to("nobody@cref.example"), sealed("no", 5000)), cmtp.StatusNoAccount},
		{key("nobody", ""), cmtp.StatusNoAccount},
		{"", cmtp.StatusDone}, // a new message each time
		{"UPLOAD\x00" + form([]byte("NOOP\x00NOOP\x00")), cmtp.StatusNotProven},
		{command(cmtp.Unlock, "alice@cref.example", "", e...), cmtp.StatusNotNow},
		{login("bob"), cmtp.StatusDone},
		{"STARTTLS\x00", cmtp.StatusNotNow},
		{key("", ""), cmtp.StatusDone},
	}
	var all strings.Builder
	for i := range 100 {
		if k := kinds[i%len(kinds)]; k.send != "" {
			all.WriteString(k.send)
		} else {
			all.WriteString("MAIL\x00" + message(t, to("alice@cref.example"), sealed(fmt.Sprint(i), 3000)))
		}
	}
	go c.send(all.String()) // more than fits on the way
	for i := range 100 {
		c.expect(kinds[i%len(kinds)].want, fmt.Sprintf("command %d", i))
	}
	c.end()
	if got := s.mailbox("alice@cref.example"); len(got) != 10 {
		t.Errorf("the mailbox has %d messages, want 10", len(got))
	}
}

// Of more former keys than a history holds, those that were followed last name the present one.
func TestServer_Inside_ManyFormer(t *testing.T) {
	var former []*crypt.PrivateKey
	for range crypt.MaxRotations + 1 {
		former = append(former, newKey(t))
	}
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Former = former }})
	h := verifyHistory(t, s.inside().want(cmtp.StatusDone, key("", "cref.example")), "@cref.example", vectorKey(t, "server").Public())
	if len(h.Rotations) != crypt.MaxRotations || !h.Follows(former[0].Public()) || h.Follows(former[crypt.MaxRotations].Public()) {
		t.Errorf("%d rotations; of the latest: %v, of the first: %v", len(h.Rotations), h.Follows(former[0].Public()), h.Follows(former[crypt.MaxRotations].Public()))
	}
}

// KEYREQUEST is answered with a history that the server may give for the name, for
// whatever name somebody may write to.
func TestServer_Inside_KeyRequest(t *testing.T) {
	for _, postmaster := range []string{"", "bob@cref.example"} {
		o := setup{}
		if postmaster != "" {
			o.postmaster = mustAddress(postmaster)
		}
		former := []*crypt.PrivateKey{newKey(t), newKey(t)}
		o.edit = func(cfg *session.Config) { cfg.Former = former }
		s := serve(t, o)
		server, alice, bob := vectorKey(t, "server").Public(), vectorKey(t, "alice").Public(), vectorKey(t, "bob").Public()
		operator := server
		if postmaster != "" {
			operator = bob
		}
		c := s.inside()
		for asked, tt := range map[string]struct {
			key   crypt.PublicKey
			alias string // where the alias statement leads, "" when there must be none
		}{
			"alice@cref.example":        {key: alice},
			"alice+x@cref.example":      {key: alice},
			"alice+x+y@cref.example":    {key: alice},
			"zoë@cref.example":          {key: bob},
			"carol@second.example":      {key: alice},
			"sales@cref.example":        {alice, "alice@cref.example"},
			"sales+x@cref.example":      {alice, "alice@cref.example"},
			"team@second.example":       {alice, "alice@cref.example"},
			"postmaster@cref.example":   {operator, or(postmaster, "@cref.example")},
			"postmaster+x@cref.example": {operator, or(postmaster, "@cref.example")},
			"postmaster@second.example": {operator, or(postmaster, "@second.example")},
			"@cref.example":             {key: server},
			"@second.example":           {key: server},
		} {
			t.Run(postmaster+"/"+asked, func(t *testing.T) {
				c.tb = t
				account, domain, _ := strings.Cut(asked, "@")
				h := verifyHistory(t, c.want(cmtp.StatusDone, key(account, domain)), asked, tt.key)
				switch {
				case (h.Alias != nil) != (tt.alias != ""):
					t.Errorf("alias %v, want one to %q", h.Alias, tt.alias)
				case h.Alias != nil && (h.Alias.From != name(asked) || h.Alias.To != name(tt.alias)):
					t.Errorf("alias from %v to %v", h.Alias.From, h.Alias.To)
				}
				if tt.key == server && len(h.Rotations) != len(former) {
					t.Errorf("%d rotations, want %d", len(h.Rotations), len(former))
				}
				for _, k := range former {
					if tt.key == server && !h.Follows(k.Public()) {
						t.Error("a former key has not named the present one")
					}
				}
			})
		}
		c.tb = t
		if a, b := c.want(cmtp.StatusDone, key("ALICE", "CREF.example.")), c.want(cmtp.StatusDone, key("alice", "")); !bytes.Equal(a, b) {
			t.Error("the spelling of a name changes its history")
		}
		if a, b := c.want(cmtp.StatusNoAccount, key("nobody", "")), c.want(cmtp.StatusNoAccount, key("dave", "")); !bytes.Equal(a, b) {
			t.Error("an unknown and a disabled account are told apart")
		}
		for _, foreign := range []string{"alice", "", "postmaster"} {
			c.want(cmtp.StatusForeignDomain, key(foreign, "other.example"))
		}
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Who may write as whom to whom, of docs/protocol.md section 19.7.
func TestServer_Inside_MailRules(t *testing.T) {
	s := serve(t, setup{})
	alice := vectorKey(t, "alice")
	for _, who := range []string{"nobody", "alice", "a server"} {
		c := s.inside()
		switch who {
		case "alice":
			c.auth("alice@cref.example", alice)
		case "a server":
			p := c.proof("x@other.example", alice)
			p.Role, p.Name, p.Server = crypt.ServerRole, name("@other.example"), mustAddress("x@cref.example").Domain
			c.want(cmtp.StatusDone, authBytes(p, alice))
		}
		for from, own := range map[string]bool{
			"alice@cref.example": true, "ALICE@Cref.Example.": true, "alice+tag@cref.example": true, "sales@cref.example": true,
			"sales+tag@cref.example": true, "team@second.example": true,
			"bob@cref.example": false, "nobody@cref.example": false, "dave@cref.example": false, "alice@second.example": false,
			"carol@second.example": false, "postmaster@cref.example": false, "@cref.example": false, "@second.example": false,
			"alice@other.example": false, "@other.example": false,
		} {
			for _, dest := range []string{"bob@cref.example", "@cref.example", "postmaster@second.example", "eve@other.example", "@other.example", "alice@cref.example.net"} {
				foreign := !strings.HasSuffix(dest, "cref.example") && !strings.HasSuffix(dest, "second.example")
				claim := strings.HasSuffix(from, "@other.example")
				var want cmtp.Status
				switch {
				case who == "alice" && own && foreign:
					want = cmtp.StatusQueued
				case !foreign && (claim || who == "alice" && own):
					want = cmtp.StatusDone
				case who == "alice":
					want = cmtp.StatusForeignSource
				default:
					want = cmtp.StatusNotProven
				}
				t.Run(fmt.Sprintf("%s proven/from %s/to %s", who, from, dest), func(t *testing.T) {
					c.tb = t
					h := to(dest)
					h.SourceAccount, h.SourceDomain, _ = strings.Cut(from, "@")
					msg := message(t, h, sealed(who+from+dest, 100))
					payload := c.want(want, "MAIL\x00"+msg)
					if want.Done() {
						s.receipt(t, payload, msg, dest)
					}
				})
			}
		}
		c.tb = t
		c.end()
	}
	if got := s.messages(spool.MailboxID(account.Outgoing)); len(got) != 6*3 {
		t.Errorf("%d messages wait for other servers, want 18", len(got))
	}
}

// receipt fails the test unless payload is the receipt for what the spool's head has.
func (s *server) receipt(t *testing.T, payload []byte, msg, dest string) {
	t.Helper()
	r, err := crypt.OpenReceipt(payload, vectorKey(t, "server").Public())
	if err != nil {
		t.Fatal(err)
	}
	head := s.spool.Head()
	want := crypt.Receipt{Digest: digestOf(t, msg), Destination: name(dest), When: r.When, Commit: head.Number, Hash: head.Hash}
	if age := time.Since(r.When.Time()); age < -time.Second || age > patience {
		t.Errorf("the receipt's time is %v ago", age)
	}
	if !bytes.Equal(payload, want.AppendSigned(nil, vectorKey(t, "server"))) {
		t.Errorf("receipt %+v, want %+v", r, want)
	}
}

func digestOf(t *testing.T, msg string) [32]byte {
	t.Helper()
	m, err := cmtp.NewMessageReader(strings.NewReader(msg), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, m); err != nil {
		t.Fatal(err)
	}
	d, err := m.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A message that came before is acknowledged again, by a receipt as good as the first,
// and is there once, also when it waits for another server.
func TestServer_Inside_Duplicates(t *testing.T) {
	queue := new(told)
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Elsewhere = queue }})
	for dest, want := range map[string]cmtp.Status{"bob@cref.example": cmtp.StatusDone, "eve@other.example": cmtp.StatusQueued} {
		h := to(dest)
		h.SourceAccount, h.SourceDomain = "alice", "cref.example"
		msg := message(t, h, sealed(dest, 300))
		for range 3 {
			c := s.inside()
			c.auth("alice@cref.example", vectorKey(t, "alice"))
			s.receipt(t, c.want(want, "MAIL\x00"+msg), msg, dest)
			c.end()
		}
		if got := s.fates(3); !slices.Equal(got[1:], []session.Outcome{session.Duplicate, session.Duplicate}) {
			t.Errorf("fates %v", got)
		}
	}
	if a, b := s.mailbox("bob@cref.example"), s.messages(spool.MailboxID(account.Outgoing)); len(a) != 1 || len(b) != 1 {
		t.Errorf("%d and %d messages are there", len(a), len(b))
	}
	if n := queue.added.Load(); n != 1 {
		t.Errorf("the queue was told %d times of one message", n)
	}
}

// told is an Elsewhere that counts what it is told.
type told struct {
	session.Elsewhere
	added atomic.Int64
}

func (q *told) Kept(address.Domain) bool { return true }

func (q *told) Added(spool.ID, string) { q.added.Add(1) }

func (s *server) fates(n int) (got []session.Outcome) {
	for range n {
		got = append(got, s.tally.fate(s.tb))
	}
	return got
}

// In the clear nobody writes as one of this server's domains, unless the operator serves
// clients of 2016, and nobody to another server at all.
func TestServer_Mail_Unproven(t *testing.T) {
	for _, accept := range []bool{false, true} {
		s := serve(t, setup{edit: func(cfg *session.Config) { cfg.AcceptUnproven = accept }})
		for from, own := range map[string]bool{"bob@cref.example": true, "x@second.example": true, "@cref.example": true,
			"bob@other.example": false, "@other.example": false, "a@cref.example.net": false} {
			for _, dest := range []string{"alice@cref.example", "@second.example", "eve@other.example"} {
				h := to(dest)
				h.SourceAccount, h.SourceDomain, _ = strings.Cut(from, "@")
				want := success(t)
				if dest == "eve@other.example" || own && !accept {
					want = failure(t)
				}
				c := s.dial(true)
				c.send("MAIL\x00" + message(t, h, sealed(from+dest, 100)))
				got := make([]byte, len(want))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
					t.Errorf("accept=%v, from %s to %s: %.7q, %v; want %.7q", accept, from, dest, got, err, want)
				}
				c.Close()
			}
		}
	}
}

// full is a store that has no room, or a trouble.
type full struct{ err error }

func (f full) NewWriter() (session.Writer, error) { return nil, f.err }

func TestServer_Inside_NoRoom(t *testing.T) {
	for want, err := range map[cmtp.Status]error{
		cmtp.StatusNoRoom: fmt.Errorf("%w: 5 bytes are free", mailbox.ErrNoRoom), cmtp.StatusTrouble: errors.New("secret path /var"),
	} {
		s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Store = full{err} }})
		c := s.inside()
		if got := c.want(want, "MAIL\x00"+message(t, to("alice@cref.example"), sealed("x", 100))); bytes.Contains(got, []byte("/var")) {
			t.Errorf("strangers are told %q", got)
		}
		c.want(cmtp.StatusDone, "NOOP\x00")
	}
}
