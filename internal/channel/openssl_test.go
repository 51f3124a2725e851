package channel_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
)

// pemFile writes a PEM file and returns its path.
func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sClient runs openssl s_client against s and returns what either side says.
func sClient(t *testing.T, s *channel.Server, args ...string) (string, result) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer c.Close()
		tc, err := s.Handshake(context.Background(), c, 0)
		if err == nil {
			tc.Write([]byte("hello from inside\n"))
			tc.CloseWrite()
			_, err = io.Copy(io.Discard, tc) // the client closes properly
		}
		done <- result{tc, err}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", l.Addr().String(), "-noservername", "-ign_eof"}, args...)...)
	out, _ := cmd.CombinedOutput() // it fails when it is refused
	l.Close()                      // where it has not connected
	return string(out), <-done
}

// TestServer_OpenSSL: the handshake is TLS as others understand it, down to the
// binding.
func TestServer_OpenSSL(t *testing.T) {
	cmtptest.Need(t, "openssl")
	s, _ := newServer(t, 1)
	der, err := channel.Certificate(testKey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	cert := pemFile(t, "CERTIFICATE", der)
	for name, groups := range map[string][]string{"default": nil, "retry": {"-groups", "P-256:X25519"}} {
		t.Run(name, func(t *testing.T) {
			out, r := sClient(t, s, append([]string{"-alpn", "cmtp/1", "-CAfile", cert, "-keymatexport", channel.BindingLabel, "-keymatexportlen", "32"}, groups...)...)
			if r.err != nil {
				t.Fatalf("%v\n%s", r.err, out)
			}
			b := r.c.Binding()
			for _, want := range []string{"TLSv1.3", "ALPN protocol: cmtp/1", "hello from inside", "Peer signature type: ed25519", "Verification: OK",
				"Keying material: " + strings.ToUpper(hex.EncodeToString(b[:]))} {
				if !strings.Contains(strings.Replace(out, "Ed25519", "ed25519", 1), want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if group := r.c.State().CurveID; !strings.Contains(out, "Server Temp Key: "+group.String()) && !strings.Contains(out, "Negotiated TLS1.3 group: "+group.String()) {
				t.Errorf("it does not name %v", group)
			}
			if strings.Contains(out, "New Session Ticket") {
				t.Error("it has been given a ticket")
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

func TestServer_OpenSSL_Refusals(t *testing.T) {
	cmtptest.Need(t, "openssl")
	s, _ := newServer(t, 1)
	for _, tt := range []struct {
		name, alert string
		want        error
		args        []string
	}{
		{"NoALPN", "alert number 120", channel.ErrProtocol, nil},
		{"OtherALPN", "alert number 120", channel.ErrProtocol, []string{"-alpn", "h2"}},
		{"TLS 1.2", "alert number 70", channel.ErrVersion, []string{"-alpn", "cmtp/1", "-tls1_2"}},
		{"P-256", "alert number 40", channel.ErrKeyExchange, []string{"-alpn", "cmtp/1", "-groups", "P-256"}},
		{"NoEd25519", "alert number 40", channel.ErrSignature, []string{"-alpn", "cmtp/1", "-sigalgs", "ECDSA+SHA256"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, r := sClient(t, s, tt.args...)
			if !errors.Is(r.err, tt.want) || !strings.Contains(out, tt.alert) {
				t.Errorf("the server says %v, the client:\n%s", r.err, out)
			}
		})
	}
}

// TestClient_OpenSSL: our client takes a server that was written elsewhere, and
// has no use for the tickets that it gives.
func TestClient_OpenSSL(t *testing.T) {
	cmtptest.Need(t, "openssl")
	key := testKey(t, 33)
	der, err := channel.Certificate(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ed25519.PrivateKey(key.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-alpn", "cmtp/1", "-tls1_3", "-rev",
		"-cert", pemFile(t, "CERTIFICATE", der), "-key", pemFile(t, "PRIVATE KEY", pkcs8))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	lines := bufio.NewScanner(out)
	addr := ""
	for addr == "" && lines.Scan() {
		if a, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			addr = a
		}
	}
	go io.Copy(io.Discard, out)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c, err := channel.Client(ctx, nc, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerKey() != key.Public() || c.ServerKey() == (crypt.PublicKey{}) || c.State().Version != tls.VersionTLS13 {
		t.Errorf("its key is %v, its version %x", c.ServerKey(), c.State().Version)
	}
	c.Write([]byte("abc\n"))
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "cba\n" {
		t.Errorf("it answers %q, %v", got, err)
	}
	c.Write([]byte("CLOSE\n"))
	if _, err := c.Read(got); err != io.EOF {
		t.Errorf("its end: %v", err)
	}
}
