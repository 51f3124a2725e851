package main_test

import (
	"encoding/base64"
	"io"
	"net"
	"strings"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/discovery/dnstest"
)

// A domain that tries mode=enforce out, and has no CMTP: its mail is not kept waiting, and the operator
// is told that it would have been.
func TestFederation_Testing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", cmtptest.Settings{"dns.trusted": "true", "metrics.listen": `"127.0.0.1:0"`})
	ch := w.signIn(a)
	host, port, err := net.SplitHostPort(clienttest.Listen(t, func(c net.Conn) {
		io.WriteString(c, "220 mx.b.example ESMTP\r\n")
		io.Copy(io.Discard, c)
	}))
	if err != nil {
		t.Fatal(err)
	}
	key := a.key()
	w.zone["b.example"] = strings.NewReplacer("HOST", host, "PORT", port, "KEY", base64.StdEncoding.EncodeToString(key[:])).Replace(
		"b.example. 1 MX 10 mx.b.example.\nmx.b.example. 1 A HOST\n_cmtp.b.example. 1 TXT \"v=CMTP1; p=KEY; port=PORT; mode=testing\"\n")
	w.dns.SetZone(w, w.zoneText())
	w.dns.Set(dnstest.Behaviour{AD: true}, "_cmtp.b.example")
	w.send(ch, a, (&realm{domain: "b.example"}).alice(), key, "would wait")
	a.await(w, "a domain is met as mode=enforce would not allow", "domain=b.example", "host=mx.b.example")
	a.await(w, "a sender was told", "late=false")
	equal(t, "what is counted", metric(t, a.Daemon, "cmtpd_enforce_tests_total"), "1")
}
