package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/limit"
	"cmtpd/internal/session"
)

const help = "OHAI NOOP HELP KEYREQUEST LOGIN MAIL OBAI STARTTLS\x00"

func key(account, domain string) string { return "KEYREQUEST\x00" + account + "\x00" + domain + "\x00" }
func login(user string) string          { return "LOGIN\x00" + user + "\x00" }

// dialogues are what a client sends in one session and all that the server answers.
func dialogues(tb testing.TB) map[string][2]string {
	server, alice, xzibit, refused := vectorReply(tb, "KEYREQUEST, server key"), vectorReply(tb, "KEYREQUEST, alice"),
		vectorReply(tb, "LOGIN, alice"), failure(tb)
	return map[string][2]string{
		"OHAI":                   {"OHAI\x00", "OHAI" + version + "\x00"},
		"NOOP":                   {"NOOP\x00", version + "\x00"},
		"HELP":                   {"HELP\x00", help},
		"no OHAI before":         {key("", "") + login("alice"), server + xzibit},
		"OHAI and CRLF":          {"OHAI\x00\r\nNOOP\x00", "OHAI" + version + "\x00" + version + "\x00"},
		"filler":                 {"NOOP\x00\r\n\x00\x00\n\rNOOP\x00\r\n", version + "\x00" + version + "\x00"},
		"server's key":           {key("", "cref.example"), server},
		"server's key, second":   {key("", "second.example"), server},
		"first domain":           {key("alice", ""), alice},
		"own domain":             {key("alice", "cref.example"), alice},
		"upper case":             {key("ALICE", "CREF.Example."), alice},
		"alias":                  {key("sales", ""), alice},
		"alias and tag":          {key("sales+spring", ""), alice},
		"tag":                    {key("alice+a+b", ""), alice},
		"second domain":          {key("carol", "second.example"), alice},
		"postmaster":             {key("postmaster", ""), server},
		"postmaster, any case":   {key("PostMaster", "second.example"), server},
		"postmaster and tag":     {key("postmaster+x", ""), server},
		"not decomposed":         {key("zoe\u0308", ""), string(keyOf(tb, "bob"))},
		"unknown":                {key("nobody", ""), refused},
		"disabled":               {key("dave", ""), refused},
		"disabled and tag":       {key("dave+x", ""), refused},
		"of another domain":      {key("carol", "cref.example"), refused},
		"foreign":                {key("alice", "other.example"), refused},
		"foreign, server's key":  {key("", "other.example"), refused},
		"domain is no domain":    {key("alice", "cref example"), refused},
		"domain literal":         {key("alice", "[127.0.0.1]"), refused},
		"account is an address":  {key("alice@cref.example", ""), refused},
		"not UTF-8":              {key("\xff\xfe", ""), refused},
		"escape sequence":        {key("alice\x1b[2J", ""), refused},
		"longest account":        {key(strings.Repeat("a", 255), ""), refused},
		"LOGIN in first domain":  {login("alice"), xzibit},
		"LOGIN with domain":      {login("carol@second.example"), xzibit},
		"LOGIN, any case":        {login("Alice@CREF.example"), xzibit},
		"LOGIN of no user":       {login(""), refused},
		"LOGIN of unknown":       {login("nobody"), refused},
		"LOGIN of disabled":      {login("dave"), refused},
		"LOGIN of alias":         {login("sales"), refused},
		"LOGIN with tag":         {login("alice+x"), refused},
		"LOGIN of postmaster":    {login("postmaster"), refused},
		"LOGIN of foreign":       {login("alice@other.example"), refused},
		"LOGIN without domain":   {login("alice@"), refused},
		"LOGIN, second domain's": {login("carol"), refused},
		"nine unknown commands":  {strings.Repeat("NO\x00", 9) + "NOOP\x00", strings.Repeat(refused, 9) + version + "\x00"},
		"lower case":             {"NOOP\x00noop\x00NOOP\x00", version + "\x00" + refused + version + "\x00"},
		"longest verb":           {strings.Repeat("X", 32) + "\x00NOOP\x00", refused + version + "\x00"},
		"a refusal is no end":    {key("nobody", "") + key("alice", ""), refused + alice},
		"AUTH in the clear":      {inside(cmtp.Auth) + "NOOP\x00", refused + version + "\x00"},
		"UNLOCK in the clear":    {inside(cmtp.Unlock) + "NOOP\x00", refused + version + "\x00"},
		"ENROLL in the clear":    {inside(cmtp.Enroll) + "NOOP\x00", refused + version + "\x00"},
		"RECOVER in the clear":   {inside(cmtp.Recover) + "NOOP\x00", refused + version + "\x00"},
	}
}

// inside returns a command that exists only inside the channel. Its fixed bytes are
// OBAI and NUL again and again: who takes them for commands ends the session.
func inside(v cmtp.Verb) string {
	fixed := map[cmtp.Verb]int{cmtp.Auth: 96, cmtp.Unlock: 32, cmtp.Enroll: 32, cmtp.Recover: 96}
	name := []byte("alice")
	cmd := cmtp.Command{Verb: v, Params: [3][]byte{name, name, name}, Fixed: []byte(strings.Repeat("OBAI\x00", 20)[:fixed[v]])}
	return string(cmd.Append(nil))
}

// keyOf returns the reply to a KEYREQUEST for the vectors' key of that name, as
// the server of the vectors signs it.
func keyOf(tb testing.TB, name string) []byte {
	pub := vectorKey(tb, name).Public()
	return cmtp.AppendKey(nil, pub, vectorKey(tb, "server").Sign(pub[:]))
}

// Every reply has exactly the documented bytes, however the commands are cut, on
// both kinds of port: nothing comes before it and nothing behind it.
func TestServer_Serve_Commands(t *testing.T) {
	for _, cmtpOnly := range []bool{false, true} {
		s := serve(t, setup{cmtpOnly: cmtpOnly})
		for name, d := range dialogues(t) {
			t.Run(fmt.Sprintf("cmtpOnly=%v/%s", cmtpOnly, name), func(t *testing.T) {
				if !cmtpOnly && !cmtp.IsVerb([]byte(strings.SplitN(d[0], "\x00", 2)[0])) {
					// A shared port's first command has to be one.
					d = [2]string{"NOOP\x00" + d[0], version + "\x00" + d[1]}
				}
				for _, cut := range []int{len(d[0]), 1} {
					c := s.dial(!cmtpOnly)
					for rest := d[0]; rest != ""; rest = rest[min(cut, len(rest)):] {
						c.send(rest[:min(cut, len(rest))])
					}
					c.expect(d[1])
					c.send("OBAI\x00")
					c.expectEnd()
				}
			})
		}
	}
}

// Filler before the first command is for CMTP-only ports; on a shared one it is
// no protocol at all.
func TestServer_Serve_FillerFirst(t *testing.T) {
	c := serve(t, setup{cmtpOnly: true}).dial(false)
	c.send("\r\n\x00NOOP\x00")
	c.expect(version + "\x00")

	shared := serve(t, setup{}).dial(true)
	shared.send("\r\n\x00NOOP\x00")
	shared.expect("500 5.5.2 ")
}

func TestServer_Serve_Postmaster(t *testing.T) {
	s := serve(t, setup{postmaster: mustAddress("bob@cref.example")})
	c := s.dial(true)
	c.send(key("postmaster", ""), key("POSTMASTER", "second.example"), key("", ""))
	c.expect(string(keyOf(t, "bob")) + string(keyOf(t, "bob")) + vectorReply(t, "KEYREQUEST, server key"))
	if err := s.accounts.SetDisabled(mustAddress("bob@cref.example"), true); err != nil {
		t.Fatal(err)
	}
	c.send(key("postmaster", ""))
	c.expect(failure(t))
}

// What cannot be read on is refused, and the session ends; so does the tenth
// unknown command.
func TestServer_Serve_Hopeless(t *testing.T) {
	s := serve(t, setup{})
	for name, d := range map[string][2]string{
		"ten unknown commands":    {strings.Repeat("NO\x00", 10), strings.Repeat(failure(t), 10)},
		"ten, with known between": {strings.Repeat("NO\x00NOOP\x00", 10), strings.Repeat(failure(t)+version+"\x00", 9) + failure(t)},
		"verb without its NUL":    {strings.Repeat("X", 33), failure(t)},
		"account too long":        {"KEYREQUEST\x00" + strings.Repeat("a", 256), failure(t)},
		"domain too long":         {"KEYREQUEST\x00a\x00" + strings.Repeat("a", 256), failure(t)},
		"form of REGISTER":        {inside(cmtp.Register) + "\x00\x00\x00\x05NOOP\x00", failure(t)},
		"form of UPLOAD":          {inside(cmtp.Upload) + "\x00\x00\x00\x05NOOP\x00", failure(t)},
		"ten of the channel":      {strings.Repeat(inside(cmtp.Auth), 10), strings.Repeat(failure(t), 10)},
		"user too long":           {"LOGIN\x00" + strings.Repeat("a", 256), failure(t)},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(true)
			// What follows, as much as a client that reads nothing can have under
			// way, is not answered and costs the reply nothing.
			c.send("NOOP\x00", d[0], strings.Repeat("NOOP\x00", 2000))
			c.expect(version + "\x00" + d[1])
			c.expectEnd()
		})
	}
}

func TestServer_Serve_OBAI(t *testing.T) {
	c := serve(t, setup{}).dial(true)
	c.send("OHAI\x00OBAI\x00NOOP\x00")
	c.expect("OHAI" + version + "\x00")
	c.expectEnd()
}

// A thousand requests before the first reply is read come back in order.
func TestServer_Serve_Pipelined(t *testing.T) {
	c := serve(t, setup{}).dial(true)
	var requests, replies strings.Builder
	for i := range 1000 {
		name, reply := "alice", vectorReply(t, "KEYREQUEST, alice")
		switch i % 3 {
		case 1:
			name, reply = "", vectorReply(t, "KEYREQUEST, server key")
		case 2:
			name, reply = "nobody", failure(t)
		}
		requests.WriteString(key(name, ""))
		replies.WriteString(reply)
	}
	c.send(requests.String())
	c.expect(replies.String())
}

func TestServer_Serve_LoginRate(t *testing.T) {
	now := time.Unix(1e9, 0) // stands still
	rate := limit.NewRate(1, 5, func() time.Time { return now })
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.AllowLogin = rate.Allow }})
	for range 5 {
		c := s.dial(true)
		c.send(login("alice"))
		c.expect(vectorReply(t, "LOGIN, alice"))
	}
	c := s.dial(true)
	c.send(login("alice"), login("nobody"), key("alice", ""), "NOOP\x00")
	c.expect(failure(t) + failure(t) + vectorReply(t, "KEYREQUEST, alice") + version + "\x00")
}
