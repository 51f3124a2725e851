package checkup_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/discovery/dnstest"
)

// A backend is a mail server of which only the beginning of a session is there.
type backend struct {
	proxy string // the version of the PROXY protocol that it asks for: "v1", "v2" or "none"
	rcpt  string // the reply to RCPT
}

// listen makes the backend answer on an address, until the test ends.
func (b backend) listen(t *testing.T) string {
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return l.Addr().String()
}

func (b backend) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	switch b.proxy {
	case "v1":
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "PROXY TCP") {
			return
		}
	case "v2":
		head := make([]byte, 16)
		if _, err := io.ReadFull(in, head); err != nil || string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" {
			return
		}
		if _, err := in.Discard(int(head[14])<<8 | int(head[15])); err != nil {
			return
		}
	}
	io.WriteString(c, "220 backend ESMTP\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		reply := map[string]string{"EHLO": "250 backend", "MAIL": "250 ok", "RCPT": b.rcpt}[strings.Fields(line + " ?")[0]]
		if reply == "" {
			reply = "500 what?"
		}
		io.WriteString(c, reply+"\r\n")
	}
}

// The mail server behind is asked as a stranger would; one that expects another PROXY header
// is told from one that is away.
func TestCheck_Backend(t *testing.T) {
	const refused = "554 relay access denied"
	away := backend{"none", refused}.listen(t)
	away = away[:strings.LastIndex(away, ":")] + ":1"
	for name, tt := range map[string]struct {
		address, proxy string
		wrong          []string // words of the only thing that is wrong
		note           string
	}{
		"Fine":       {backend{"v2", refused}.listen(t), "v2", nil, ""},
		"FineV1":     {backend{"v1", refused}.listen(t), "v1", nil, ""},
		"Relays":     {backend{"v2", "250 ok"}.listen(t), "v2", []string{"backend: ", "would relay for strangers", "mynetworks"}, ""},
		"PutsOff":    {backend{"v2", "450 later"}.listen(t), "v2", nil, "backend: "},
		"OtherProxy": {backend{"v1", refused}.listen(t), "v2", []string{`proxy_protocol = "v2", which is configured, but as with "v1"`, "set smtp.proxy_protocol"}, ""},
		"NoProxy":    {backend{"none", "250 ok"}.listen(t), "v1", []string{`but as with "none"`}, ""},
		"Away":       {away, "v2", []string{"backend: ", away, "connection refused", "smtp.backend"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wrong, notes := checked(t, datadirtest.Filled(t), fmt.Sprintf("smtp.mode = \"relay\"\nsmtp.backend = %q\nsmtp.proxy_protocol = %q\n", tt.address, tt.proxy))
			if tt.wrong != nil {
				one(t, wrong, tt.wrong...)
			} else if len(wrong) > 0 {
				t.Errorf("%q are wrong", wrong)
			}
			if noted := strings.Contains(strings.Join(notes, "\n"), "backend: "); noted != (tt.note != "") {
				t.Errorf("notes: %q", notes)
			}
		})
	}
}

// Where the mail of a domain goes, by what is in DNS.
func TestCheck_Routes(t *testing.T) {
	for name, tt := range map[string]struct {
		zone  string
		wrong []string
		note  string
	}{
		"Here":        {route, nil, ""},
		"NoDomain":    {"", []string{"dns: nobody can send mail to example.org", "publish: example.org. 3600 IN MX 10 mx.example.org. and mx.example.org. 3600 IN A"}, ""},
		"NullMX":      {"example.org. MX 0 .", []string{"takes no mail", "publish: example.org. 3600 IN MX"}, ""},
		"NoAddress":   {"example.org. MX 10 mx.example.org.\nmx.example.org. TXT \"x\"", []string{"has an address", "mx.example.org. 3600 IN A"}, ""},
		"OneHostGone": {route + "example.org. MX 20 old.example.org.\nold.example.org. TXT \"x\"", []string{"a mail host of example.org cannot be reached", "old.example.org", "out of the MX"}, ""},
		"Elsewhere":   {"example.org. MX 10 mx.example.org.\nmx.example.org. A 192.0.2.1", nil, "no address of this machine, of example.org (mx.example.org, 192.0.2.1)"},
	} {
		t.Run(name, func(t *testing.T) {
			zone := dnstest.Start(t, tt.zone)
			wrong, notes := checked(t, datadirtest.Filled(t), "dns.resolver = \""+zone.Addr+"\"\n")
			if tt.wrong != nil {
				one(t, wrong, tt.wrong...)
			} else if len(wrong) > 0 {
				t.Errorf("%q are wrong", wrong)
			}
			all := strings.Join(notes, "\n")
			if strings.Contains(all, "no address of this machine") != (tt.note != "") || !strings.Contains(all, tt.note) {
				t.Errorf("notes: %q", notes)
			}
		})
	}
}

// A resolver is put to the test whether it is believed or not.
func TestCheck_Unbelieved(t *testing.T) {
	zone := dnstest.Start(t, route+"org. SOA a. b. 1 1 1 1 1\ndnssec-failed.org. SOA a. b. 1 1 1 1 1\n")
	_, notes := checked(t, datadirtest.Filled(t), "dns.resolver = \""+zone.Addr+"\"\n")
	if all := strings.Join(notes, "\n"); !strings.Contains(all, "dns: the resolver does not validate DNSSEC: nothing vouches") || !strings.Contains(all, "set dns.trusted") {
		t.Errorf("notes: %q", notes)
	}
}

// Without a daemon, a port that another program has is told of before the start fails.
func TestCheck_Taken(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cfg := datadirtest.Filled(t)
	for address, want := range map[string]bool{l.Addr().String(): true, ":" + port: true, "127.255.255.254:" + port: false, host + ":1": false} {
		wrong, _ := checked(t, cfg, fmt.Sprintf("listen.addresses = [%q]\n", address))
		if !want && len(wrong) > 0 {
			t.Errorf("%s: %q", address, wrong)
		} else if want {
			one(t, wrong, "ports: "+address+" is taken, and not by a daemon that answers here", "ss -ltnp")
		}
	}
	l.Close()
	if wrong, _ := checked(t, cfg, fmt.Sprintf("listen.addresses = [%q]\n", l.Addr())); len(wrong) > 0 {
		t.Errorf("nobody listens: %q", wrong)
	}
}

// A clock that was put back is noticed by what was written before.
func TestCheck_Clock(t *testing.T) {
	cfg := datadirtest.Filled(t)
	segments, err := filepath.Glob(filepath.Join(cfg.SpoolDir(), "log", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	for by, want := range map[time.Duration]bool{time.Minute: false, 24 * time.Hour: true} {
		at := time.Now().Add(by)
		if err := os.Chtimes(segments[0], at, at); err != nil {
			t.Fatal(err)
		}
		wrong, _ := checked(t, cfg, "")
		if !want && len(wrong) > 0 {
			t.Errorf("%v: %q", by, wrong)
		} else if want {
			one(t, wrong, "clock: the clock is behind", "set the clock")
		}
	}
}
