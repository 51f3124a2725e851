package discovery_test

import (
	"encoding/base64"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/discovery"
)

// zoneFile returns a zone of a domain with one server and, if text is not empty, a
// _cmtp record.
func zoneFile(name, text string) string {
	z := "$ORIGIN " + name + ".\n$TTL 300\n" +
		"@ SOA ns root 1 7200 3600 604800 60\n@ NS ns\nns A 127.0.0.1\n@ MX 10 mx\nmx A 192.0.2.1\nmx AAAA 2001:db8::1\n"
	if text != "" {
		z += "_cmtp TXT \"" + text + "\"\n"
	}
	return z
}

// TestRealDNSSEC asks a real validating resolver about zones of a real name
// server: signed ones, one without signatures, and some that were changed after
// they had been signed.
func TestRealDNSSEC(t *testing.T) {
	_, key := testKey(t, 1)
	_, mallory := testKey(t, 2)
	policy := "v=CMTP1; k=ed25519; p=" + key + "; mode=enforce"
	tampered := map[string]func(line string) string{
		"forged.example":   func(l string) string { return strings.ReplaceAll(l, key, mallory) },
		"stripped.example": without("_cmtp", "TXT"),
		"moved.example":    func(l string) string { return strings.ReplaceAll(l, "192.0.2.1", "192.0.2.66") },
		"broken.example":   breakSignature,
		"unsigned.example": without("", "RRSIG"),
	}
	zones := map[string]string{"good.example": zoneFile("good.example", policy), "bare.example": zoneFile("bare.example", "")}
	for name := range tampered {
		zones[name] = zoneFile(name, policy)
	}
	signer := cmtptest.StartKnot(t, true, zones)
	served := map[string]string{"plain.example": zoneFile("plain.example", policy)}
	var anchors []string
	for name := range zones {
		anchors = append(anchors, signer.Anchor(t, name)...)
		if change := tampered[name]; change != nil {
			var lines []string
			for _, l := range signer.Records(t, name) {
				lines = append(lines, change(l))
			}
			served[name] = strings.Join(lines, "\n") + "\n"
			if slices.Equal(lines, signer.Records(t, name)) {
				t.Fatalf("nothing was changed in %s", name)
			}
		}
	}
	attacker := cmtptest.StartKnot(t, false, served)
	where := map[string]*cmtptest.Knot{"good.example": signer, "bare.example": signer}
	for name := range served {
		where[name] = attacker
	}
	validating := cmtptest.StartUnbound(t, true, anchors, where)
	trusting := discovery.New(settings(validating, true), discovery.Options{})

	t.Run("Found", func(t *testing.T) {
		for _, c := range []struct {
			name               string
			published, enforce bool
			authenticated      bool
		}{
			{"good.example", true, true, true},
			{"bare.example", false, false, true},
			{"plain.example", true, false, false},
		} {
			got, err := trusting.Find(t.Context(), domain(t, c.name))
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			want := "10 mx." + c.name + " [2001:db8::1]:25\n10 mx." + c.name + " 192.0.2.1:25"
			if show(got) != want || got.Authenticated() != c.authenticated || got.Published.Authenticated != c.authenticated ||
				(got.Published.Record != nil) != c.published || got.Published.Enforced() != c.enforce {
				t.Errorf("%s: got %+v", c.name, got)
			}
		}
		got, err := discovery.New(settings(validating, false), discovery.Options{}).Find(t.Context(), domain(t, "good.example"))
		if err != nil || got.Authenticated() || got.HostsAuthenticated || got.Published.Enforced() {
			t.Errorf("a resolver that is not trusted: %+v, %v", got, err)
		}
	})
	// What was changed is not believed, and not taken for absence either.
	t.Run("Tampered", func(t *testing.T) {
		moved, err := trusting.Find(t.Context(), domain(t, "moved.example"))
		if err != nil || show(moved) != "10 mx.moved.example [2001:db8::1]:25" || moved.Authenticated() {
			t.Errorf("a forged A beside a good AAAA: %s, %v", show(moved), err)
		}
		delete(tampered, "moved.example")
		for name := range tampered {
			got, err := trusting.Find(t.Context(), domain(t, name))
			var typed *discovery.Error
			if !errors.As(err, &typed) || !typed.Temporary() || !errors.Is(err, discovery.ErrRefused) || !strings.Contains(err.Error(), "SERVFAIL (") {
				t.Errorf("%s: got %s, %v", name, show(got), err)
			}
		}
	})
	t.Run("CheckValidation", func(t *testing.T) {
		for _, c := range []struct {
			resolver, signed, broken string
			want                     error
		}{
			{validating, "good.example", "broken.example", nil},
			{validating, "plain.example", "broken.example", discovery.ErrNotValidating},
			{validating, "good.example", "bare.example", discovery.ErrNotValidating},
			{validating, "good.example", "elsewhere.example", discovery.ErrRefused},
			{cmtptest.StartUnbound(t, false, nil, where), "good.example", "broken.example", discovery.ErrNotValidating},
		} {
			conf := settings(c.resolver, true)
			conf.DNS.SignedZone, conf.DNS.BrokenZone = domain(t, c.signed), domain(t, c.broken)
			if err := discovery.New(conf, discovery.Options{}).CheckValidation(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%s and %s: got %v, want %v", c.signed, c.broken, err, c.want)
			}
		}
	})
}

// without drops the records of a type whose names begin with a label.
func without(label, qtype string) func(string) string {
	return func(line string) string {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[0], label) && (fields[3] == qtype || fields[3] == "RRSIG" && fields[4] == qtype) {
			return ""
		}
		return line
	}
}

var signature = regexp.MustCompile(`[A-Za-z0-9+/]+=*$`)

// breakSignature flips a bit in the signature of a record RRSIG.
func breakSignature(line string) string {
	if strings.Fields(line)[3] != "RRSIG" {
		return line
	}
	return signature.ReplaceAllStringFunc(line, func(s string) string {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			panic(err)
		}
		b[len(b)-1] ^= 1
		return base64.StdEncoding.EncodeToString(b)
	})
}
