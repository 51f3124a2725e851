package setup_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"cmtpd/internal/setup"
)

// sockets is a list of the kernel's, with one socket for each address; the inodes count from 100.
func sockets(state string, addrs ...string) *fstest.MapFile {
	text := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for i, a := range addrs {
		at := netip.MustParseAddrPort(a)
		b := at.Addr().AsSlice()
		for w := 0; w < len(b); w += 4 {
			binary.BigEndian.PutUint32(b[w:], binary.NativeEndian.Uint32(b[w:]))
		}
		text += fmt.Sprintf("  %2d: %s:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0000000000000000 100 0 0 10 0\n",
			i, strings.ToUpper(hex.EncodeToString(b)), at.Port(), state, 100+i)
	}
	return &fstest.MapFile{Data: []byte(text)}
}

func link(to string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
}

// process adds a process that has a socket, to files.
func process(files fstest.MapFS, pid int, exe, socket string) {
	dir := fmt.Sprintf("proc/%d/", pid)
	files[dir+"exe"], files[dir+"fd/0"], files[dir+"fd/7"] = link(exe), link("/dev/null"), link("socket:["+socket+"]")
}

// silent answers nobody.
func silent(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }

// greets says a line to whoever asks, and writes down where.
func greets(line string, asked *string) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		*asked = addr
		here, there := net.Pipe()
		go func() {
			there.Write([]byte(line))
			there.Close()
		}()
		return here, nil
	}
}

func look(files fstest.MapFS, hostname string, dial func(context.Context, string, string) (net.Conn, error)) *setup.Facts {
	return setup.Look(context.Background(), setup.Machine{Files: files, Hostname: func() (string, error) { return hostname, nil }, Dial: dial})
}

// TestLook_Program: who has port 25 is told by the program, the right one of several.
func TestLook_Program(t *testing.T) {
	for _, tt := range []struct {
		name string
		exes []string
		want setup.Kind
	}{
		{"Postfix", []string{"/usr/lib/postfix/sbin/master"}, setup.Postfix},
		{"Postfix' own smtpd", []string{"/usr/lib/postfix/sbin/smtpd"}, setup.Postfix},
		{"OpenSMTPD", []string{"/usr/sbin/smtpd"}, setup.OpenSMTPD},
		{"Exim, upgraded since", []string{"/usr/sbin/exim4 (deleted)"}, setup.Exim},
		{"handed on by systemd", []string{"/usr/lib/systemd/systemd", "/usr/bin/cmtpd"}, setup.Cmtpd},
		{"another", []string{"/usr/sbin/sendmail-mta"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fstest.MapFS{"proc/net/tcp": sockets("0A", "127.0.0.1:631", "0.0.0.0:25"), "proc/net/tcp6": sockets("0A", "[::1]:631")}
			process(files, 9, "/usr/sbin/cupsd", "100")
			for i, exe := range tt.exes {
				process(files, 10+i, exe, "101")
			}
			l := look(files, "mx.example.org", silent).Port25
			if l == nil || l.Kind != tt.want || l.Program != strings.TrimSuffix(tt.exes[len(tt.exes)-1], " (deleted)") || !reflect.DeepEqual(l.Addresses, []string{"0.0.0.0:25"}) {
				t.Errorf("it found %+v", l)
			}
		})
	}
}

// A program is named in one line that steers no terminal.
func TestListener_String(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/sbin/sendmail-mta":            "/usr/sbin/sendmail-mta",
		"/tmp/x\n  Next\n  sh\x1b[2J\u202e": `"/tmp/x\n  Next\n  sh\x1b[2J\u202e"`,
		"/tmp/x (is harmless)":              `"/tmp/x (is harmless)"`,
	} {
		if got := (&setup.Listener{Program: program}).String(); got != want {
			t.Errorf("%q is named %s", program, got)
		}
	}
}

// TestLook_Greeting: where only root may know the program, the server is asked, at an address where it listens.
func TestLook_Greeting(t *testing.T) {
	for _, tt := range []struct {
		listens, greeting, asked string
		installed                []string
		want                     setup.Kind
	}{
		{"0.0.0.0:25", "220 mx ESMTP Postfix (Debian/GNU)\r\n", "127.0.0.1:25", nil, setup.Postfix},
		{"192.0.2.1:25", "220 mx ESMTP OpenSMTPD\r\n", "192.0.2.1:25", nil, setup.OpenSMTPD},
		{"127.0.0.1:25", "220 mx ESMTP Exim 4.96 Fri, 27 Nov 2026\r\n", "127.0.0.1:25", []string{"etc/postfix/main.cf"}, setup.Exim},
		{"127.0.0.1:25", "220 mx ready\r\n", "127.0.0.1:25", []string{"etc/postfix/main.cf"}, setup.Postfix},
		{"127.0.0.1:25", "220 mx ready\x1b[2J\r\n", "127.0.0.1:25", []string{"etc/postfix/main.cf", "etc/smtpd.conf"}, ""},
	} {
		files, asked := fstest.MapFS{"proc/net/tcp": sockets("0A", tt.listens)}, ""
		for _, name := range tt.installed {
			files[name] = &fstest.MapFile{}
		}
		f := look(files, "mx.example.org", greets(tt.greeting, &asked))
		if l := f.Port25; l == nil || l.Kind != tt.want || asked != tt.asked || strings.ContainsAny(l.Greeting, "\x1b\r\n") || len(f.Installed) != len(tt.installed) {
			t.Errorf("%q: asked %s, found %+v, %v", tt.greeting, asked, l, f.Installed)
		}
	}
}

// TestLook_Nobody: what does not listen, or elsewhere, is nobody; nobody is asked then.
func TestLook_Nobody(t *testing.T) {
	for _, list := range []*fstest.MapFile{sockets("01", "127.0.0.1:25"), sockets("0A", "127.0.0.1:2525"), {Data: []byte("nonsense\n1 2 0A\n 0: zz:0019 0 0A 0 0 0 0 0 9\n")}} {
		asked := ""
		f := look(fstest.MapFS{"proc/net/tcp": list}, "", greets("220 Postfix\r\n", &asked))
		if f.Port25 != nil || asked != "" {
			t.Errorf("found %+v, asked %q", f.Port25, asked)
		}
	}
	// Without the kernel's lists it has to be tried.
	asked := ""
	if f := look(fstest.MapFS{}, "", greets("220 Postfix\r\n", &asked)); f.Port25 == nil || asked != "127.0.0.1:25" {
		t.Errorf("found %+v, asked %q", f.Port25, asked)
	}
	if f := look(fstest.MapFS{}, "", silent); f.Port25 != nil {
		t.Errorf("found %+v", f.Port25)
	}
}

// TestLook_Names: the machine's name and its mail's.
func TestLook_Names(t *testing.T) {
	hosts := "127.0.0.1 localhost\n127.0.1.1\tmx.example.org mx # mx.example.net\n"
	for _, tt := range []struct{ hostname, hosts, mailname, host, domain string }{
		{"mx.example.org", "", "", "mx.example.org", "example.org"},
		{"mx", hosts, "", "mx.example.org", "example.org"},
		{"mx", "", "", "", ""},
		{"localhost", "127.0.0.1 localhost.localdomain localhost\n", "", "", ""},
		{"mx.example.org", "", "example.com\n", "mx.example.org", "example.com"},
		{"mx.example.org", "", "mx.example.org\n", "mx.example.org", "example.org"},
		{"example.org", "", "", "example.org", "example.org"},
		{"mx", "", "example.com\n", "", "example.com"},
		{"", hosts, "", "", ""},
	} {
		files := fstest.MapFS{"etc/hosts": {Data: []byte(tt.hosts)}, "etc/mailname": {Data: []byte(tt.mailname)}}
		f := look(files, tt.hostname, silent)
		if f.Hostname.String() != tt.host || f.Domain.String() != tt.domain {
			t.Errorf("%+v: found %q, %q", tt, f.Hostname, f.Domain)
		}
	}
}

// TestLook_Backend: a filter that hands mail back to Postfix keeps its port.
func TestLook_Backend(t *testing.T) {
	files := fstest.MapFS{"proc/net/tcp": sockets("0A", "127.0.0.1:10225"), "etc/postfix/master.cf": {Data: []byte("127.0.0.1:10025 inet n - y - - smtpd\n")}}
	if f := look(files, "", silent); f.Backend != "127.0.0.1:10325" {
		t.Errorf("found %q", f.Backend)
	}
	if f := look(fstest.MapFS{}, "", silent); f.Backend != "127.0.0.1:10025" {
		t.Errorf("found %q", f.Backend)
	}
}

// TestLook_Metrics: the usual place, unless another program has it, of which cmtpd itself is none.
func TestLook_Metrics(t *testing.T) {
	const place = "127.0.0.1:9125"
	for _, tt := range []struct{ listens, exe, want string }{
		{"127.0.0.1:9124", "/usr/bin/exporter", place},
		{"192.0.2.1:9125", "/usr/bin/exporter", place},
		{place, "/usr/bin/exporter", ""},
		{"0.0.0.0:9125", "/usr/bin/exporter", ""},
		{place, "/usr/bin/cmtpd", place},
	} {
		files := fstest.MapFS{"proc/net/tcp": sockets("0A", tt.listens)}
		process(files, 10, tt.exe, "100")
		if f := look(files, "", silent); f.Metrics != tt.want {
			t.Errorf("with %s at %s: found %q", tt.exe, tt.listens, f.Metrics)
		}
	}
	if f := look(fstest.MapFS{"proc/net/tcp": sockets("0A", place)}, "", silent); f.Metrics != "" { // only root may know whose it is
		t.Errorf("found %q", f.Metrics)
	}
}
