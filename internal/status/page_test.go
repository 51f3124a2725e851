package status_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"cmtpd/internal/status"
)

var update = flag.Bool("update", false, "write testdata/page.html anew")

var noon = time.Date(2026, 11, 27, 12, 0, 30, 0, time.UTC)

const evil = `<script>alert("1")</script><img src=x onerror=alert(2)>`

// sample is a page on which everything is that may be there.
func sample() status.Page {
	traffic, troubles := status.NewTraffic(), new(status.Troubles)
	for i := range 50 {
		for range i * i % 7 {
			traffic.Add(status.SMTP, noon.Add(time.Duration(i-55)*time.Minute))
		}
	}
	traffic.Add(status.In, noon)
	log := slog.New(troubles.Handler(slog.DiscardHandler)).With("conn", "CONN1234")
	log.Error("the mail server cannot be reached", "backend", "127.0.0.1:10025", "err", errors.New("connection refused"))
	log.Warn("a server's key is held", "domain", evil)
	page := status.Page{
		Host: "mx.example.org", Version: "1.2.3", Now: noon, Since: noon.Add(-50 * time.Hour), Traffic: traffic, Troubles: troubles.Recent(),
		State: status.State{Word: "low disk", Reason: "10 MiB are free: " + evil, Grade: status.Bad},
		Tables: []status.Table{
			{Caption: "Spool", Rows: []status.Row{{Name: "Messages", Value: status.Count(1234567)},
				{Name: "Damage", Value: "3", Grade: status.Fair, Note: evil}, {Name: "Free", Value: "10 MiB", Grade: status.Bad}}},
			{Caption: "Key", Rows: []status.Row{{Name: "Fingerprint", Value: strings.Repeat("abcd ", 9) + "abcd", Code: true}}},
		},
	}
	for i := range page.Troubles {
		page.Troubles[i].Last = noon.Add(-time.Duration(i) * time.Hour)
	}
	return page
}

func TestPage_Golden(t *testing.T) {
	var b bytes.Buffer
	p := sample()
	if err := p.Render(&b); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/page.html"
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the page is not %s; look at the difference, and run the test with -update", file)
	}
}

// Nothing on the page is anything but text: no scripts, nothing from elsewhere, no style but the one that is allowed.
// Who cannot see it is told the same.
func TestPage_Elements(t *testing.T) {
	var b bytes.Buffer
	p := sample()
	if err := p.Render(&b); err != nil {
		t.Fatal(err)
	}
	strict := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	strict.Entity = xml.HTMLEntity
	for {
		if _, err := strict.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the elements do not close: %v", err)
		}
	}
	tree, err := html.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for n := range tree.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		count[n.Data]++
		for _, a := range n.Attr {
			outside := strings.Contains(a.Val, "//") || a.Key == "src" || a.Key == "href" && a.Val != "data:," && a.Val != "metrics"
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" || outside {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	for element, want := range map[string]int{"script": 0, "img": 0, "iframe": 0, "form": 0, "style": 1, "h1": 1, "svg": 4, "desc": 4, "caption": 2, "main": 1} {
		if count[element] != want {
			t.Errorf("%d <%s>, want %d", count[element], element, want)
		}
	}
	if count["title"] != 5 { // of the page and of each drawing
		t.Errorf("%d <title>", count["title"])
	}
}

func TestHandler(t *testing.T) {
	h := status.Handler(sample)
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
		if want != http.StatusOK {
			continue
		}
		policy := w.Header().Get("Content-Security-Policy")
		for _, rule := range []string{"default-src 'none'; ", "style-src 'sha256-", "img-src data:; ", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, rule) {
				t.Errorf("the policy %q has no %q", policy, rule)
			}
		}
		if strings.Contains(policy, "unsafe") || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers: %v", w.Header())
		}
	}
}

// The ring has the last hour, whatever the clock does.
func TestTraffic(t *testing.T) {
	traffic := status.NewTraffic()
	traffic.Add(status.In, noon)
	traffic.Add(status.In, noon.Add(59*time.Minute))
	traffic.Add(status.In, noon.Add(59*time.Minute))
	want := func(now time.Time, first, last uint64, sum uint64) {
		t.Helper()
		counts := traffic.Of(status.In, now)
		var got uint64
		for _, n := range counts {
			got += n
		}
		if counts[0] != first || counts[status.Minutes-1] != last || got != sum {
			t.Errorf("%v: %v", now, counts)
		}
	}
	want(noon.Add(59*time.Minute), 1, 2, 3)
	want(noon.Add(60*time.Minute), 0, 0, 2)
	traffic.Add(status.In, noon) // the clock was set back: it counts in the newest minute
	want(noon, 0, 1, 3)
	want(noon.Add(118*time.Minute), 2, 0, 3)
	want(noon.Add(1000*time.Hour), 0, 0, 0)
	if n := traffic.Of(status.Out, noon); n != [status.Minutes]uint64{} {
		t.Errorf("another kind: %v", n)
	}
}

// What is remembered of troubles is bounded, names nobody, and a flood of one leaves the others there.
func TestTroubles(t *testing.T) {
	var out bytes.Buffer
	troubles := new(status.Troubles)
	log := slog.New(troubles.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	log.Info("nothing to worry about")
	log.Warn("the first")
	for i := range 1000 {
		log.With("conn", "X").Error("a flood", "n", i, "to", "alice@example.org", "client", "192.0.2.1", "err",
			fmt.Errorf("adding alice@example.org: a\x00b\u202e %s", strings.Repeat("ä", 1000)))
	}
	all := troubles.Recent()
	if len(all) != 2 || all[0].Text != "a flood" || all[0].Times != 1000 || all[1].Text != "the first" {
		t.Fatalf("%+v", all)
	}
	d := all[0].Detail
	if !strings.HasPrefix(d, "conn=X n=999 err=adding …@example.org: a\uFFFDb\uFFFD ä") || len(d) > 410 || strings.Contains(d, "alice") || strings.Contains(d, "192.0.2.1") {
		t.Errorf("the detail is %d bytes: %q", len(d), d)
	}
	if n := strings.Count(out.String(), "\n"); n != 1000 {
		t.Errorf("%d lines were passed on", n)
	}
	for i := range 100 {
		log.Error(fmt.Sprint("another ", i))
	}
	if all = troubles.Recent(); len(all) != 20 || all[0].Text != "another 99" || all[19].Text != "another 80" {
		t.Errorf("%d are remembered", len(all))
	}
	if log.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("more is made than is logged")
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		status.Count(0): "0", status.Count(999): "999", status.Count(1000): "1,000", status.Count(-1234567): "-1,234,567",
		status.Bytes(0): "0 B", status.Bytes(1023): "1023 B", status.Bytes(1024): "1.00 KiB", status.Bytes(1 << 40): "1.00 TiB",
		status.Bytes(123 << 20): "123 MiB", status.Bytes(1<<64 - 1): "16.0 EiB", status.Bytes(1000 << 10): "0.98 MiB",
		status.Span(0): "0 s", status.Span(61 * time.Second): "1 min 1 s", status.Span(48 * time.Hour): "2 d", status.Span(-time.Hour): "0 s",
		status.Span(25*time.Hour + time.Minute): "1 d 1 h", status.When(noon): "2026-11-27 12:00 UTC",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
