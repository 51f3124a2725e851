package status_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/status"
)

// A browser is a Chromium without a window, told what to do by its DevTools protocol over two pipes, in which each
// message of JSON ends with a NUL. One goroutine uses it.
type browser struct {
	t        *testing.T
	out      io.Writer
	in       *bufio.Scanner
	last     int
	session  string
	problems []string // what the page's console and the policy have complained about
	loaded   bool
}

type devtools struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

type object = map[string]any

func openBrowser(t *testing.T) *browser {
	t.Helper()
	cmtptest.Need(t, "chromium")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir="+profile(t), "about:blank")
	hears, says := pipe(t), pipe(t)
	cmd.ExtraFiles = []*os.File{hears[0], says[1]} // its descriptors 3 and 4
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hears[0].Close()
	says[1].Close()
	b := &browser{t: t, out: hears[1], in: bufio.NewScanner(says[0])}
	b.in.Buffer(nil, 64<<20)
	b.in.Split(func(data []byte, _ bool) (int, []byte, error) {
		if i := strings.IndexByte(string(data), 0); i >= 0 {
			return i + 1, data[:i], nil
		}
		return 0, nil, nil
	})
	t.Cleanup(func() {
		b.out.(*os.File).Close() // it ends when nobody tells it anything any more
		cmd.Wait()
		cancel()
	})
	var target struct{ TargetID, SessionID string }
	b.do("Target.createTarget", object{"url": "about:blank"}, &target)
	b.do("Target.attachToTarget", object{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

// profile returns a new directory. Processes of a browser's write into theirs for a moment after it has ended.
func profile(t *testing.T) string {
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); os.RemoveAll(dir) != nil && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	})
	return dir
}

func pipe(t *testing.T) [2]*os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return [2]*os.File{r, w}
}

// do has something done, and takes the result.
func (b *browser) do(method string, params, result any) {
	b.t.Helper()
	b.last++
	m, err := json.Marshal(devtools{ID: b.last, Session: b.session, Method: method, Params: params})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(m, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		m := b.next()
		if m.ID != b.last {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

// next returns what the browser says next, and notes what happens on the page.
func (b *browser) next() (m devtools) {
	b.t.Helper()
	if !b.in.Scan() {
		b.t.Fatalf("the browser is gone: %v", b.in.Err())
	}
	if err := json.Unmarshal(b.in.Bytes(), &m); err != nil {
		b.t.Fatal(err)
	}
	switch m.Method {
	case "Page.loadEventFired":
		b.loaded = true
	case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown":
		b.problems = append(b.problems, fmt.Sprint(m.Params))
	}
	return m
}

// open shows a page in a window of so many pixels.
func (b *browser) open(url string, width int, scheme string) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", object{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	b.do("Emulation.setEmulatedMedia", object{"features": []object{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.loaded, b.problems = false, nil
	b.do("Page.navigate", object{"url": url}, nil)
	for !b.loaded {
		b.next()
	}
}

// eval returns what an expression comes to on the page, as JSON.
func (b *browser) eval(expression string, result any) {
	b.t.Helper()
	var answer struct {
		Result struct{ Value json.RawMessage }
	}
	b.do("Runtime.evaluate", object{"expression": expression, "returnByValue": true}, &answer)
	if err := json.Unmarshal(answer.Result.Value, result); err != nil {
		b.t.Fatalf("%s: %v: %s", expression, err, answer.Result.Value)
	}
}

// picture writes what is shown to a directory for people, if STATUS_PICTURES names one.
func (b *browser) picture(name string) {
	dir := os.Getenv("STATUS_PICTURES")
	if dir == "" {
		return
	}
	var answer struct{ Data string }
	b.do("Page.captureScreenshot", object{"captureBeyondViewport": true}, &answer)
	data, err := base64.StdEncoding.DecodeString(answer.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), data, 0o644)
	}
	if err != nil {
		b.t.Error(err)
	}
}

// measure says what is wider than the window, and which texts can hardly be told from what is behind them: less
// than the 4.5 to 1 of WCAG 2.2, 1.4.3.
// The width is what was asked for: a telephone makes its window as wide as what does not fit.
const measure = `((width) => {
	const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
	const paper = light(getComputedStyle(document.body).backgroundColor), wide = [], faint = []
	for (const e of document.querySelectorAll("body, body *")) {
		if (e.getBoundingClientRect().right > width + .5) wide.push(e.outerHTML.slice(0, 60))
		if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue
		const [a, b] = [light(getComputedStyle(e).color), paper].sort((a, b) => b - a)
		if ((a + .05) / (b + .05) < 4.5) faint.push(e.outerHTML.slice(0, 60))
	}
	return {wide, faint, scroll: document.documentElement.scrollWidth - width, title: document.title, state: document.querySelector("h1").innerText,
		columns: getComputedStyle(document.querySelector(".tables")).gridTemplateColumns.split(" ").length, paper}
})`

// The page is as it should be in a real browser, on a telephone and on a screen, by day and by night: all of it
// within the window, its state to be seen, and nothing that its own policy forbids.
func TestPage_Browser(t *testing.T) {
	b := openBrowser(t)
	bad := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		status.Handler(sample).ServeHTTP(w, req)
		io.WriteString(w, `<p style="color: red">red</p><script>document.title = "taken over"</script>`)
	})
	mux := http.NewServeMux()
	mux.Handle("/", status.Handler(sample))
	mux.Handle("/bad", bad)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, tt := range []struct {
		width, columns int
		scheme         string
	}{{320, 1, "light"}, {320, 1, "dark"}, {768, 1, "light"}, {1280, 2, "light"}, {1280, 2, "dark"}} {
		b.open(srv.URL, tt.width, tt.scheme)
		var seen struct {
			Wide, Faint  []string
			Scroll       int
			Title, State string
			Columns      int
			Paper        float64
		}
		b.eval(fmt.Sprintf("%s(%d)", measure, tt.width), &seen)
		if seen.Scroll > 0 || len(seen.Wide) > 0 || len(seen.Faint) > 0 {
			t.Errorf("%d wide, %s: %d too wide; %q; faint: %q", tt.width, tt.scheme, seen.Scroll, seen.Wide, seen.Faint)
		}
		if seen.Title != "low disk · mx.example.org" || !strings.EqualFold(seen.State, "low disk") || seen.Columns != tt.columns || seen.Paper < .5 != (tt.scheme == "dark") {
			t.Errorf("%d wide, %s: %+v", tt.width, tt.scheme, seen)
		}
		if len(b.problems) > 0 {
			t.Errorf("%d wide, %s: %q", tt.width, tt.scheme, b.problems)
		}
		b.picture(fmt.Sprintf("%d-%s", tt.width, tt.scheme))
	}
	b.open(srv.URL+"/bad", 320, "light")
	title := ""
	b.eval("document.title", &title)
	if len(b.problems) != 2 || title != "low disk · mx.example.org" {
		t.Errorf("a script and a style that are not its own: title %q, %q", title, b.problems)
	}
}
