package main_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
)

// TestServe_RelayCheck: a mail server that would relay for strangers is not
// fronted, unless the operator insists; one that would not is.
func TestServe_RelayCheck(t *testing.T) {
	t.Parallel()
	t.Run("refuse", func(t *testing.T) {
		site := cmtptest.NewSite(t, behind(cmtptest.NewBackend(t, true), nil))
		r := site.Run(t, "", "serve")
		equal(t, "exit status", r.Status, 1)
		for _, want := range []string{"would relay", "smtp.relay_check", "smtp.proxy_protocol"} {
			if !strings.Contains(r.Err, want) {
				t.Errorf("it does not say %q:\n%s", want, r.Err)
			}
		}
	})
	t.Run("warn", func(t *testing.T) {
		d := cmtptest.NewSite(t, behind(cmtptest.NewBackend(t, true), cmtptest.Settings{"smtp.relay_check": `"warn"`})).Start(t)
		d.Line(t, "level=ERROR", "relays for strangers")
		equal(t, "answer to QUIT", quit(t, d), "221 2.0.0 bye\r\n")
		d.Stop(t)
	})
	t.Run("refused by the mail server", func(t *testing.T) {
		d := cmtptest.NewSite(t, behind(cmtptest.NewBackend(t, false), nil)).Start(t)
		d.Line(t, "level=INFO", "refuses to relay for strangers")
		d.Stop(t)
	})
}

// TestServe_RelayUnknown: a mail server that answers, but not to the question
// whether it relays, is fronted only where the operator insists.
func TestServe_RelayUnknown(t *testing.T) {
	t.Parallel()
	for check, want := range map[string]string{"refuse": "421 4.3.2 " + hostname, "warn": "500 5.5.1 what"} {
		t.Run(check, func(t *testing.T) {
			t.Parallel()
			d := cmtptest.NewSite(t, behind(speechless(t), cmtptest.Settings{"smtp.relay_check": `"` + check + `"`})).Start(t)
			d.Line(t, "level=ERROR", "cannot be asked whether it relays")
			if answer := quit(t, d); !strings.HasPrefix(answer, want) {
				t.Errorf("a session was answered %q, want %q", answer, want)
			}
			d.Stop(t)
		})
	}
}

// speechless returns a mail server that greets and knows no command.
func speechless(t *testing.T) *cmtptest.Backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			sessions.Go(func() {
				defer c.Close()
				in := bufio.NewScanner(c)
				in.Scan() // the PROXY header
				for _, err := io.WriteString(c, "220 backend.example ESMTP\r\n"); err == nil && in.Scan(); {
					_, err = io.WriteString(c, "500 5.5.1 what\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		sessions.Wait()
	})
	return &cmtptest.Backend{Addr: l.Addr().String()}
}

// TestServe_BackendDown: a mail server that is away is no reason to be closed to
// everybody; its sessions are told to come again. Once it is there it is asked what
// it would have been asked at the start, and only then fronted.
func TestServe_BackendDown(t *testing.T) {
	t.Parallel()
	for name, relays := range map[string]bool{"then up": false, "then up and open to all": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			down := &cmtptest.Backend{Addr: l.Addr().String()}
			l.Close()
			d := cmtptest.NewSite(t, behind(down, cmtptest.Settings{"limits.connection_burst": "1048576"})).Start(t)
			d.Line(t, "level=ERROR", "cannot be asked whether it relays")
			const later = "421 4.3.2 " + hostname
			equal(t, "answer", strings.HasPrefix(quit(t, d), later), true)
			c := greeted(t, d.Shared[0])
			c.send(t, "NOOP\x00")
			c.str(t, version)

			b := cmtptest.NewBackendAt(t, down.Addr, relays)
			asked := `msg="the mail server behind refuses to relay for strangers"`
			if relays {
				asked = `msg="the mail server behind relays for strangers"`
			}
			// It is asked again when a session needs it, but not at once.
			for put := true; put && !strings.Contains(d.Log(), asked); {
				put = strings.HasPrefix(quit(t, d), later)
			}
			d.Line(t, asked)
			if answer := quit(t, d); strings.HasPrefix(answer, later) != relays {
				t.Errorf("once it was asked a session was answered %q", answer)
			}
			if !relays {
				equal(t, "received behind", b.Next(t).Received, "QUIT\r\n")
			}
			d.Stop(t)
		})
	}
}

// quit opens an SMTP session only to end it, and returns the answer.
func quit(t *testing.T, d *cmtptest.Daemon) string {
	t.Helper()
	c := greeted(t, d.Shared[0])
	defer c.Close()
	c.send(t, "QUIT\r\n")
	line, err := c.in.ReadString('\n')
	if err != nil {
		t.Fatalf("QUIT was answered %q, %v", line, err)
	}
	return line
}

func TestServe_ModeRefuse(t *testing.T) {
	t.Parallel()
	d := cmtptest.NewSite(t, nil).Start(t)
	c := greeted(t, d.Shared[0])
	c.send(t, "EHLO client.example\r\nMAIL FROM:<>\r\n")
	c.line(t, "521 5.3.2 "+hostname)
	c.end(t)
	d.Stop(t)
}

// TestServe_Stop: at SIGTERM nobody new is taken, an idle session ends, and a
// message on its way is received to its end and acknowledged.
func TestServe_Stop(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	idle, fresh, busy := greeted(t, d.Shared[0]), greeted(t, d.Shared[0]), greeted(t, d.Shared[0])
	idle.send(t, "NOOP\x00")
	idle.str(t, version)
	const length = 200
	busy.send(t, "NOOP\x00"+announce(length)+strings.Repeat("x", length-1))
	busy.str(t, version) // it is written when the message is begun, at the latest
	if err := d.Terminate(); err != nil {
		t.Fatal(err)
	}
	idle.end(t)
	fresh.line(t, "421 4.3.2 "+hostname)
	fresh.end(t)
	if c, err := net.Dial("tcp", d.Shared[0]); err == nil {
		// The kernel may have taken it before the listener closed.
		c.SetDeadline(time.Now().Add(time.Minute))
		if b, err := io.ReadAll(c); strings.HasPrefix(string(b), "220") {
			t.Errorf("after SIGTERM it says %q, %v", b, err)
		}
		c.Close()
	}
	busy.send(t, "x")
	busy.success(t)
	busy.end(t)
	d.Ends(t)
	d.Line(t, "spool closed")
	list := decode[[]admin.MessageView](t, site.Must(t, "", "spool", "list", "--operator", "--json"))
	equal(t, "messages", len(list), 1)
}

// TestServe_StopGrace: what does not end within shutdown_grace is cut off, and
// that is no failure.
func TestServe_StopGrace(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"shutdown_grace": `"200ms"`})
	d := site.Start(t)
	c := greeted(t, d.Shared[0])
	c.send(t, "NOOP\x00"+announce(100))
	c.str(t, version)
	d.Stop(t)
	d.Line(t, "cut off")
	equal(t, "files in tmp", len(entries(t, filepath.Join(site.Data, "spool", "tmp"))), 0)
}

// TestServe_StopUnderLoad stops a daemon, with the race detector where the test
// has it, in the middle of much work: what was acknowledged is there.
func TestServe_StopUnderLoad(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.large_message": `"16KiB"`, "metrics.listen": `"127.0.0.1:0"`})
	site.AddUsers(t, "alice")
	d := site.Start(t)
	ledger := cmtptest.NewLedger(1, 16<<10, "alice")
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- ledger.Load(ctx, d.Shared[0], 16) }()
	d.Line(t, "message stored")
	site.Must(t, "", "spool", "list")
	site.Must(t, "", "user", "disable", "alice@"+cmtptest.Domain)
	site.Must(t, "", "user", "enable", "alice@"+cmtptest.Domain)
	metrics := get(t, "http://"+d.Metrics+"/metrics")
	if err := d.Terminate(); err != nil {
		t.Fatal(err)
	}
	<-done // sessions were refused while alice was disabled, or ended
	d.Ends(t)
	for _, want := range []string{`cmtpd_messages_total{outcome="stored"}`, "cmtpd_spool_head", "cmtpd_trust_held 0", `cmtpd_sessions_total{outcome="done",protocol="cmtp"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics do not show %s", want)
		}
	}
	_, acked := ledger.Counts()
	if list := decode[[]admin.MessageView](t, site.Must(t, "", "spool", "list", "--json")); len(list) < acked || acked == 0 {
		t.Errorf("%d messages, %d acknowledged", len(list), acked)
	}
	site.Must(t, "", "spool", "verify")
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(b)
}

// TestServe_DiskFull: with too little room mail is refused, and nothing else.
func TestServe_DiskFull(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"limits.min_free_space": `"1TiB"`})
	d := site.Start(t)
	c := greeted(t, d.Shared[0])
	c.send(t, announce(100)+strings.Repeat("x", 100)+"NOOP\x00")
	c.failure(t)
	c.str(t, version) // in step behind the refused message
	d.Line(t, "level=ERROR", "message failed", "limits.min_free_space")
	d.Stop(t)
	equal(t, "messages", strings.TrimSpace(site.Must(t, "", "spool", "list", "--operator", "--json")), "[]")
}

// TestServe_SpoolFails: when a message cannot be made durable the sender is told
// so, and the daemon ends, since only a fresh start knows what is on disk. That
// start serves what was acknowledged before, and nothing of the other.
func TestServe_SpoolFails(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	small := announce(100) + strings.Repeat("x", 100)
	large := announce(300<<10) + strings.Repeat("x", 300<<10)
	c := greeted(t, d.Shared[0])
	c.send(t, small)
	c.success(t)
	if err := os.Remove(filepath.Join(site.Data, "spool", "large")); err != nil {
		t.Fatal(err)
	}
	c.send(t, large)
	c.failure(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Wait(ctx); err == nil || !strings.Contains(d.Log(), "cmtpd: the spool cannot be written") {
		t.Fatalf("the daemon ended with %v\n%s", err, d.Log())
	}

	d = site.Start(t)
	c = greeted(t, d.Shared[0])
	c.send(t, large)
	c.success(t)
	list := decode[[]admin.MessageView](t, site.Must(t, "", "spool", "list", "--operator", "--json"))
	equal(t, "messages", len(list), 2)
	site.Must(t, "", "spool", "verify")
	d.Stop(t)
}

// TestServe_OwnFiles: everything that a daemon makes is for its owner alone.
func TestServe_OwnFiles(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "alice")
	d := site.Start(t)
	deliver(t, d, &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Length: 100}, {Length: 300 << 10}}})
	files := 0
	err := filepath.Walk(site.Data, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		files++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Errorf("%d files, %v", files, err)
	}
	d.Stop(t)
}

// TestServe_AnothersData: a daemon that somebody else starts, as root does to try
// it, would leave files that its own user cannot read. It leaves none.
func TestServe_AnothersData(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give a directory to another user")
	}
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	if err := os.Mkdir(site.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(site.Data, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	r := site.Run(t, "", "serve")
	equal(t, "exit status", r.Status, 1)
	if !strings.Contains(r.Err, "belongs to another user") || !strings.Contains(r.Err, "-u nobody ") {
		t.Errorf("it says %q", r.Err)
	}
	equal(t, "files that it left", len(entries(t, site.Data)), 0)
}
