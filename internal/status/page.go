package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// A Page is what is shown.
type Page struct {
	Host     string
	Version  string
	Now      time.Time
	Since    time.Time // of the process
	State    State
	Traffic  *Traffic
	Tables   []Table
	Troubles []Trouble // the latest first
}

// A State says in a word how the server is, and in a sentence why.
type State struct {
	Word   string
	Reason string
	Grade  Grade
}

// A Grade is how much somebody has to do something.
type Grade string

// The grades.
const (
	Good Grade = "good"
	Fair Grade = "fair" // it serves, and there is something to look at
	Bad  Grade = "bad"  // it does not serve, or not all
)

// A Table is a part of the page.
type Table struct {
	Caption string
	Rows    []Row
}

// A Row is a line of a table.
type Row struct {
	Name, Value string
	Note        string // what to know or do, if anything
	Grade       Grade  // "" for what is neither good nor bad
	Code        bool   // the value is to be compared letter by letter
}

//go:embed page.css
var css string

//go:embed page.html
var source string

var page = template.Must(template.New("page").Parse(source))

// policy lets the page use its own style and nothing else.
var policy = func() string {
	sum := sha256.Sum256([]byte(css))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src data:; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// Handler shows what now returns to who asks.
func Handler(now func() Page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "The page is only shown.", http.StatusMethodNotAllowed)
			return
		}
		p := now()
		var b bytes.Buffer
		if err := p.Render(&b); err != nil {
			http.Error(w, "The page could not be made.", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		w.Write(b.Bytes()) // to HEAD the server sends no body
	})
}

// Render writes the page.
func (p *Page) Render(b *bytes.Buffer) error { return page.Execute(b, view{p, template.CSS(css)}) }

// A view is a page with what the template asks of it.
type view struct {
	*Page
	CSS template.CSS
}

// Uptime returns for how long the process has run.
func (v view) Uptime() string { return Span(v.Now.Sub(v.Since)) }

// At returns when the page was made.
func (v view) At() string { return v.Now.UTC().Format("2006-01-02 15:04:05") + " UTC" }

// A chart is a sparkline.
type chart struct {
	ID          string
	Title, Desc string
	Sum, Most   string
	Path        template.HTMLAttr
}

// Charts returns the sparklines.
func (v view) Charts() []chart {
	var charts []chart
	for _, c := range []struct {
		kind  Kind
		title string
	}{{SMTP, "SMTP sessions"}, {CMTP, "CMTP sessions"}, {In, "Messages in"}, {Out, "Messages out"}} {
		counts := v.Traffic.Of(c.kind, v.Now)
		var sum, most uint64
		for _, n := range counts {
			sum += n
			most = max(most, n)
		}
		charts = append(charts, chart{ID: fmt.Sprintf("c%d", c.kind), Title: c.title, Sum: Count(sum), Path: line(counts, most),
			Most: Count(most), Desc: fmt.Sprintf("%s in the last %d minutes, at most %s in one of them", Count(sum), Minutes, Count(most))})
	}
	return charts
}

// Sizes of a sparkline, in the units of its view box.
const (
	chartStep   = 4
	chartHeight = 40
)

// line draws counts as an area of steps from left to right.
func line(counts [Minutes]uint64, most uint64) template.HTMLAttr {
	var b strings.Builder
	fmt.Fprintf(&b, `d="M0 %d`, chartHeight)
	for i, n := range counts {
		y := float64(chartHeight)
		if n > 0 { // one of many is still to be seen
			y = chartHeight - max(1.5, float64(n)/float64(most)*(chartHeight-2))
		}
		fmt.Fprintf(&b, "V%.1fH%d", y, (i+1)*chartStep)
	}
	fmt.Fprintf(&b, `V%dZ"`, chartHeight)
	return template.HTMLAttr(b.String()) // numbers alone
}

// Word returns a trouble's level for a person.
func (t Trouble) Word() string {
	if t.Level >= slog.LevelError {
		return "error"
	}
	return "warning"
}

// At returns when it was last.
func (t Trouble) At() string { return When(t.Last) }
