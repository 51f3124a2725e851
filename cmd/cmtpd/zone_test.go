package main_test

import (
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/discovery/dnstest"
)

// publish puts the _cmtp records that a file, or stdout, has into DNS, and nothing else: those of all domains, or
// of the DOMAINs. At first it starts the name server, and names it in cmtpd.toml.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: publish FILE [DOMAIN...]")
	}
	zone := "example.org. SOA a. b. 1 1 1 1 60\nexample.com. SOA a. b. 1 1 1 1 60\n" +
		"example.org. MX 10 mx.example.org.\nexample.com. MX 10 mx.example.org.\nmx.example.org. A 127.0.0.1\n"
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		name, _, _ := strings.Cut(line, ". ")
		if domain, ok := strings.CutPrefix(name, "_cmtp."); ok && (len(args) == 1 || slices.Contains(args[1:], domain)) {
			zone += line
		}
	}
	s := running(ts)
	if s.zone != nil {
		ts.Check(s.zone.Replace(zone))
		return
	}
	var err error
	s.zone, err = dnstest.Listen("127.0.0.1:0", zone)
	ts.Check(err)
	ts.Defer(s.zone.Close)
	text := strings.Replace(ts.ReadFile("cmtpd.toml"), "127.0.0.1:1\"", s.zone.Addr+"\"", 1)
	ts.Check(os.WriteFile(ts.MkAbs("cmtpd.toml"), []byte(text), 0o600))
}
