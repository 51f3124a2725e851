package main_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/xzibit"
)

// patience is long after every limit of these tests, and before any of the defaults.
const patience = 25 * time.Second

// within fails when what has begun was not ended by the limit that is tested.
func within(t *testing.T, began time.Time) {
	t.Helper()
	if took := time.Since(began); took > patience {
		t.Errorf("it took %v", took)
	}
}

// TestSettings_Session: what is configured of CMTP sessions is what holds.
func TestSettings_Session(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		settings cmtptest.Settings
		said     string
		logged   []string
	}{
		{"session_timeout", cmtptest.Settings{"limits.session_timeout": `"500ms"`, "limits.max_message_size": `"1MiB"`},
			"NOOP\x00", []string{"session ended", "why=timeout"}},
		{"message_grace", cmtptest.Settings{"limits.message_grace": `"300ms"`},
			"NOOP\x00" + announce(1000), []string{"message broken"}},
		// 64 KiB earn a second, and would earn a minute by the default.
		{"min_rate", cmtptest.Settings{"limits.min_rate": `"64KiB"`, "limits.message_grace": `"100ms"`},
			"NOOP\x00" + announce(1<<20) + strings.Repeat("x", 64<<10), []string{"message broken"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := cmtptest.NewSite(t, tt.settings).Start(t)
			began := time.Now()
			c := greeted(t, d.Shared[0])
			c.send(t, tt.said)
			c.str(t, version)
			c.end(t)
			within(t, began)
			d.Line(t, tt.logged...)
		})
	}
}

// TestSettings_Login: as many xzibits at once as login_burst says, and not one
// more before login_rate allows it.
func TestSettings_Login(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.login_rate": "1", "limits.login_burst": "3"})
	site.AddUsers(t, "alice")
	d := site.Start(t)
	c := greeted(t, d.Shared[0])
	for range 3 {
		c.send(t, "LOGIN\x00alice\x00")
		if _, _, err := cmtp.ReadXzibit(c.in, xzibit.ReadFrom); err != nil {
			t.Fatalf("the answer to LOGIN: %v", err)
		}
	}
	c.send(t, "LOGIN\x00alice\x00")
	c.failure(t)
}

// TestSettings_Names: aliases and the postmaster are who the configuration says.
func TestSettings_Names(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{
		"domains": `["example.org", "example.com"]`, "postmaster": `"alice@example.org"`,
		"aliases": `{"info@example.com" = "bob@example.org"}`,
	})
	site.AddUsers(t, "alice", "bob")
	d := site.Start(t)
	key := func(account, domain string) string {
		c := greeted(t, d.Shared[0])
		c.send(t, "KEYREQUEST\x00"+account+"\x00"+domain+"\x00")
		pub, _, err := cmtp.ReadKey(c.in)
		if err != nil {
			t.Fatalf("the key of %s@%s: %v", account, domain, err)
		}
		return pub.String()
	}
	equal(t, "the key of an alias", key("info", "example.com"), key("bob", ""))
	equal(t, "the key of a tag behind it", key("info+x", "example.com"), key("bob", ""))
	equal(t, "the key of a postmaster", key("postmaster", "example.com"), key("alice", ""))
	if key("", "") == key("alice", "") {
		t.Error("the server has a user's key")
	}
	for _, to := range []string{"postmaster", "alice"} {
		deliver(t, d, &cmtptest.Letter{To: to, Parts: []cmtptest.Noise{{Length: 100}}})
	}
	list := site.Must(t, "", "spool", "list", "alice@example.org")
	equal(t, "messages in the postmaster's mailbox", strings.Count(list, "\n"), 2)
}

// TestSettings_SMTP: what is configured of SMTP sessions is what holds.
func TestSettings_SMTP(t *testing.T) {
	t.Parallel()
	for setting, why := range map[string]string{"smtp.idle_timeout": "idle", "smtp.session_timeout": "long"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			d := cmtptest.NewSite(t, behind(cmtptest.NewBackend(t, false), cmtptest.Settings{setting: `"300ms"`})).Start(t)
			began := time.Now()
			c := greeted(t, d.Shared[0])
			c.send(t, "NOOP\r\n")
			c.line(t, "250 ")
			if rest, err := c.in.ReadString('\n'); rest != "" || !gone(err) {
				t.Errorf("it goes on with %q, %v", rest, err)
			}
			within(t, began)
			d.Line(t, "session ended", "protocol=smtp", "why="+why)
		})
	}
	t.Run("smtp.connect_timeout", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0") // who connects is never greeted
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		site := cmtptest.NewSite(t, behind(&cmtptest.Backend{Addr: l.Addr().String()}, cmtptest.Settings{"smtp.connect_timeout": `"300ms"`}))
		began := time.Now()
		d := site.Start(t)
		if answer := quit(t, d); !strings.HasPrefix(answer, "421 4.3.2 ") {
			t.Errorf("the answer is %q", answer)
		}
		within(t, began)
	})
}
