package channel_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/crypt"
)

// plainClient is what a TLS client needs that the server takes.
func plainClient(change func(*tls.Config)) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"cmtp/1"}}
	if change != nil {
		change(cfg)
	}
	return cfg
}

// replacing alters what a client writes.
func replacing(from, to string) func(*meddler, []byte) (int, error) {
	return func(m *meddler, p []byte) (int, error) {
		return m.Conn.Write(bytes.ReplaceAll(p, []byte(from), []byte(to)))
	}
}

// earlyData adds the extension early_data to a ClientHello (RFC 8446 section 4.2.10).
func earlyData(m *meddler, p []byte) (int, error) {
	p = append([]byte(nil), p...)
	grow := func(at int) { // a length of two bytes
		n := (int(p[at])<<8 | int(p[at+1])) + 4
		p[at], p[at+1] = byte(n>>8), byte(n)
	}
	grow(3)              // of the record
	grow(5 + 2)          // of the message: 3 bytes, of which the first is 0
	at := 5 + 4 + 2 + 32 // the session ID
	at += 1 + int(p[at])
	at += 2 + (int(p[at])<<8 | int(p[at+1]))
	at += 1 + int(p[at])
	grow(at) // of the extensions
	m.meddle = nil
	return m.Conn.Write(append(p[:at+2], append([]byte{0, 42, 0, 0}, p[at+2:]...)...))
}

func TestServer_Handshake_Refusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*tls.Config)
		meddle func(*meddler, []byte) (int, error)
		want   error
		alert  string
		count  channel.Outcome
	}{
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, nil, channel.ErrVersion, "protocol version", channel.Unsuitable},
		{"NoALPN", func(c *tls.Config) { c.NextProtos = nil }, nil, channel.ErrProtocol, "no application protocol", channel.Unsuitable},
		{"OtherALPN", func(c *tls.Config) { c.NextProtos = []string{"h2", "cmtp/2", "cmtp/1.1"} }, nil, channel.ErrProtocol, "no application protocol", channel.Unsuitable},
		{"P-256", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }, nil, channel.ErrKeyExchange, "handshake failure", channel.Unsuitable},
		{"OtherHybrids", func(c *tls.Config) {
			c.CurvePreferences = []tls.CurveID{tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024}
		}, nil, channel.ErrKeyExchange, "handshake failure", channel.Unsuitable},
		{"NoEd25519", nil, replacing("\x08\x07", "\x0a\x0a"), channel.ErrSignature, "handshake failure", channel.Unsuitable},
		{"EarlyData", nil, earlyData, channel.ErrHandshake, "unsupported extension", channel.Broken},
		{"ClientRefuses", func(c *tls.Config) { c.InsecureSkipVerify, c.ServerName = false, "example.org" }, nil, channel.ErrHandshake, "", channel.Refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, outcomes := newServer(t, 1)
			ours, theirs := tcp(t)
			done := serve(s, ours)
			client := tls.Client(&meddler{Conn: theirs, meddle: tt.meddle}, plainClient(tt.change))
			client.SetDeadline(time.Now().Add(10 * time.Second))
			clientErr := client.Handshake()
			if clientErr == nil {
				_, clientErr = client.Read(make([]byte, 1))
			}
			r := <-done
			if !errors.Is(r.err, tt.want) || !errors.Is(r.err, channel.ErrHandshake) {
				t.Errorf("the server says %v, want %v", r.err, tt.want)
			}
			if clientErr == nil || !strings.Contains(clientErr.Error(), tt.alert) {
				t.Errorf("the client hears %v, want %q", clientErr, tt.alert)
			}
			if outcomes.n[tt.count] != 1 || len(outcomes.n) != 1 {
				t.Errorf("counted %v, want %q", outcomes.n, tt.count)
			}
			if s.Computing() != 0 {
				t.Error("the slot was not given back")
			}
		})
	}
}

// TestServer_Handshake_Alert: a refusal is one alert, to the byte, and then nothing.
func TestServer_Handshake_Alert(t *testing.T) {
	hello := hellos(t, nil)[0]
	hello = bytes.ReplaceAll(hello, []byte("cmtp/1"), []byte("cmtp/0"))
	s, _ := newServer(t, 1)
	ours, theirs := tcp(t)
	theirs.Write(hello)
	if _, err := s.Handshake(context.Background(), ours, 0); !errors.Is(err, channel.ErrProtocol) {
		t.Fatal(err)
	}
	ours.Close()
	got, err := io.ReadAll(theirs)
	if want := []byte{21, 3, 3, 0, 2, 2, 120}; err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x arrived, want %x; %v", got, want, err)
	}
}

// A tickets counts what a client is given to resume with.
type tickets struct{ put int }

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *tickets) Put(_ string, cs *tls.ClientSessionState) { c.put++ }

// TestServer_Handshake_Plain: nothing but what is refused is asked of a client. One
// that has a name, a certificate and a cache of sessions gets no use of them.
func TestServer_Handshake_Plain(t *testing.T) {
	for name, curves := range map[string][]tls.CurveID{"hybrid": nil, "X25519": {tls.X25519}, "retry": {tls.SecP256r1MLKEM768, tls.X25519}} {
		t.Run(name, func(t *testing.T) {
			s, _ := newServer(t, 1)
			ours, theirs := tcp(t)
			done := serve(s, ours)
			var cache tickets
			asked := false
			client := tls.Client(theirs, plainClient(func(c *tls.Config) {
				c.CurvePreferences = curves
				c.ServerName = "example.org"
				c.ClientSessionCache = &cache
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					asked = true
					return &tls.Certificate{}, nil
				}
			}))
			if err := client.Handshake(); err != nil {
				t.Fatal(err)
			}
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			go r.c.Write([]byte("x")) // tickets would come before it
			if _, err := client.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			st := client.ConnectionState()
			if want := tls.X25519MLKEM768; name == "hybrid" && st.CurveID != want || name != "hybrid" && st.CurveID != tls.X25519 || st.HelloRetryRequest != (name == "retry") {
				t.Errorf("%v, retried %v", st.CurveID, st.HelloRetryRequest)
			}
			if asked || cache.put > 0 || len(st.PeerCertificates) != 1 {
				t.Errorf("certificate asked for: %v, tickets: %d, certificates shown: %d", asked, cache.put, len(st.PeerCertificates))
			}
			if s.Computing() != 0 {
				t.Error("the slot was not given back")
			}
		})
	}
}

// selfSigned returns a certificate for a key of any kind.
func selfSigned(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A forger signs everything for the key of order 1: R and the key are the
// neutral point, S is 0, and the equation holds for any message.
type forger struct{}

func (forger) Public() crypto.PublicKey {
	return ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))
}

func (forger) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return append([]byte{1}, make([]byte, 63)...), nil
}

func TestClient_Refusals(t *testing.T) {
	_, good, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	two := selfSigned(t, good)
	two.Certificate = append(two.Certificate, two.Certificate[0])
	for _, tt := range []struct {
		name   string
		cert   tls.Certificate
		change func(*tls.Config)
		want   error // nil: taken
		text   string
	}{
		{"Good", selfSigned(t, good), func(*tls.Config) {}, nil, ""},
		{"RSA", selfSigned(t, rsaKey), func(*tls.Config) {}, channel.ErrCertificate, "RSA"},
		{"ECDSA", selfSigned(t, ecKey), func(*tls.Config) {}, channel.ErrCertificate, "ECDSA"},
		{"TwoCertificates", two, func(*tls.Config) {}, channel.ErrCertificate, "it shows 2"},
		{"SmallOrder", selfSigned(t, forger{}), func(*tls.Config) {}, crypt.ErrPublicKey, "subgroup"},
		{"NoALPN", selfSigned(t, good), func(c *tls.Config) { c.NextProtos = nil }, channel.ErrProtocol, ""},
		{"CertificateRequest", selfSigned(t, good), func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, channel.ErrCertificateRequest, ""},
		{"OtherALPN", selfSigned(t, good), func(c *tls.Config) { c.NextProtos = []string{"h2"} }, channel.ErrHandshake, "no application protocol"},
		{"TLS 1.2", selfSigned(t, good), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, channel.ErrHandshake, "protocol version"},
		{"P-256", selfSigned(t, good), func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }, channel.ErrHandshake, "handshake failure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := tcp(t)
			cfg := &tls.Config{Certificates: []tls.Certificate{tt.cert}, NextProtos: []string{"cmtp/1"}}
			tt.change(cfg)
			server := tls.Server(ours, cfg)
			done := make(chan error, 1)
			go func() { done <- server.Handshake() }()
			c, err := channel.Client(context.Background(), theirs, 0, 0)
			theirs.Close()
			serverErr := <-done
			if tt.want == nil {
				if err != nil || c.ServerKey() != crypt.PublicKey(good.Public().(ed25519.PublicKey)) {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, tt.want) || !errors.Is(err, channel.ErrHandshake) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("the client says %v, want %v with %q", err, tt.want, tt.text)
			}
			if serverErr == nil {
				t.Error("for the server the handshake was complete")
			}
		})
	}
}

// TestClient_Refusals_Forger: the forger of the test above does fool a TLS client
// that only verifies signatures.
func TestClient_Refusals_Forger(t *testing.T) {
	ours, theirs := tcp(t)
	server := tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{selfSigned(t, forger{})}, NextProtos: []string{"cmtp/1"}})
	go server.Handshake()
	if err := tls.Client(theirs, plainClient(nil)).Handshake(); err != nil {
		t.Fatal(err)
	}
}

// TestHandshake_Canceled: a context ends a handshake on either side.
func TestHandshake_Canceled(t *testing.T) {
	s, outcomes := newServer(t, 1)
	for _, side := range []string{"server", "client"} {
		ours, theirs := tcp(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			var err error
			if side == "server" {
				_, err = s.Handshake(ctx, ours, 0)
			} else {
				_, err = channel.Client(ctx, ours, 0, 0)
			}
			done <- err
		}()
		if side == "client" { // it has begun when its hello is there
			if _, err := theirs.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, channel.ErrHandshake) {
			t.Errorf("%s: %v", side, err)
		}
		if _, err := theirs.Write([]byte("x")); side == "server" && err == nil {
			io.Copy(io.Discard, theirs) // ends, as the connection is closed
		}
	}
	if outcomes.n[channel.Stopped] != 1 {
		t.Errorf("counted %v", outcomes.n)
	}
}

// TestHandshake_Left: a peer that is gone in the middle is no attack.
func TestHandshake_Left(t *testing.T) {
	s, outcomes := newServer(t, 1)
	ours, theirs := tcp(t)
	theirs.(*net.TCPConn).CloseWrite()
	if _, err := s.Handshake(context.Background(), ours, 0); !errors.Is(err, channel.ErrTruncated) {
		t.Errorf("the client left: %v", err)
	}
	if outcomes.n[channel.Left] != 1 {
		t.Errorf("counted %v", outcomes.n)
	}
	ours, theirs = tcp(t)
	ours.(*net.TCPConn).CloseWrite()
	if _, err := channel.Client(context.Background(), theirs, 0, 0); !errors.Is(err, channel.ErrTruncated) {
		t.Errorf("the server left: %v", err)
	}
}
