package cmtptest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A Postfix is a real mail server for the domain mail.example, with a queue and
// a configuration of its own. As Debian's does, it relays for clients on
// loopback, and for nobody else.
type Postfix struct {
	Plain   string // host:port where clients are who they seem to be
	Proxied string // host:port where smtpd expects a PROXY header
	dir     string
}

// StartPostfix starts a Postfix that stops with the test. It needs root.
func StartPostfix(t testing.TB) *Postfix {
	t.Helper()
	Need(t, "postfix")
	if os.Geteuid() != 0 {
		LeaveOut(t, "Postfix is started only by root")
	}
	dir, err := os.MkdirTemp("", "postfix") // not t.TempDir: a socket's path must be short
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	p := &Postfix{Plain: freePort(t), Proxied: freePort(t), dir: dir}
	p.configure(t)
	etc, log := filepath.Join(dir, "etc"), filepath.Join(dir, "log")
	runPostfix(t, etc, log, "start")
	t.Cleanup(func() { runPostfix(t, etc, log, "stop") })
	for _, addr := range []string{p.Plain, p.Proxied} {
		AwaitPort(t, addr)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("Postfix wrote:\n%s", text)
		}
	})
	return p
}

// Mail waits until n messages have been delivered and returns them, headers
// first, in no order.
func (p *Postfix) Mail(t testing.TB, n int) []string {
	t.Helper()
	var names []string
	await(t, fmt.Sprintf("%d messages", n), func() bool {
		names, _ = filepath.Glob(filepath.Join(p.dir, "mail/inbox/new/*"))
		return len(names) >= n
	})
	var mail []string
	for _, name := range names {
		b, err := os.ReadFile(name)
		check(t, err)
		mail = append(mail, string(b))
	}
	return mail
}

// runPostfix starts or stops the Postfix whose configuration is in etc.
func runPostfix(t testing.TB, etc, logFile, verb string) {
	t.Helper()
	cmd := exec.Command("postfix", "-c", etc, verb)
	var out bytes.Buffer
	cmd.Stderr = &out // no pipe: master would hold it open
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(logFile)
		t.Fatalf("postfix %s: %v\n%s%s", verb, err, out.Bytes(), log)
	}
}

func (p *Postfix) configure(t testing.TB) {
	t.Helper()
	owner, err := user.Lookup("postfix")
	check(t, err)
	uid, err := strconv.Atoi(owner.Uid)
	check(t, err)
	for _, d := range []string{"etc", "queue", "data", "mail"} {
		check(t, os.Mkdir(filepath.Join(p.dir, d), 0o755))
	}
	for _, d := range []string{"data", "mail"} {
		check(t, os.Chown(filepath.Join(p.dir, d), uid, -1))
	}
	check(t, os.WriteFile(filepath.Join(p.dir, "tls.pem"), selfSigned(t), 0o600))
	vars := strings.NewReplacer("DIR", p.dir, "PLAIN", p.Plain, "PROXIED", p.Proxied, "UID", owner.Uid, "GID", owner.Gid)
	check(t, os.WriteFile(filepath.Join(p.dir, "etc/main.cf"), []byte(vars.Replace(mainCF)), 0o644))
	check(t, os.WriteFile(filepath.Join(p.dir, "etc/master.cf"), []byte(vars.Replace(masterCF)), 0o644))
}

const mainCF = `compatibility_level = 3.6
queue_directory = DIR/queue
data_directory = DIR/data
maillog_file = DIR/log
maillog_file_prefixes = DIR
myhostname = mail.example
mydestination =
mynetworks = 127.0.0.0/8 [::1]/128
inet_interfaces = loopback-only
alias_maps =
smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination
virtual_mailbox_domains = mail.example
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:UID
virtual_gid_maps = static:GID
default_transport = discard:
smtpd_tls_security_level = may
smtpd_tls_chain_files = DIR/tls.pem
smtpd_client_connection_count_limit = 0
`

const masterCF = `PLAIN inet n - n - - smtpd
PROXIED inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`

// selfSigned returns a key and a certificate for mail.example in PEM.
func selfSigned(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "mail.example"},
		DNSNames:     []string{"mail.example"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
}

// await asks again until ok: another process gives no signal.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited 30 seconds for %s", what)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
