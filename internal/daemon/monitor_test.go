package daemon_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

const (
	dashboard = "../../configs/grafana/cmtpd.json"
	alerts    = "../../configs/prometheus/alerts.yml"
)

// expressions returns all that a dashboard asks Prometheus for.
func expressions(t *testing.T, file string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(x any) {
		switch x := x.(type) {
		case []any:
			for _, v := range x {
				walk(v)
			}
		case map[string]any:
			for k, v := range x {
				if s, ok := v.(string); ok && (k == "expr" || k == "definition") {
					all = append(all, s)
				}
				walk(v)
			}
		}
	}
	walk(tree)
	return all
}

// Every metric, and every label with a value of its own, in dashboard and alerts is one that the daemon has; and
// promtool understands it all.
func TestMonitoring(t *testing.T) {
	w := watch(t, nil)
	defer w.stop()
	w.until(t, "/readyz", 200, "ready: ")
	_, metrics, _ := w.ask(t, "GET", "/metrics", "")
	asked := expressions(t, dashboard)
	rules, err := os.ReadFile(alerts)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (.*)$`).FindAllSubmatch(rules, -1) {
		asked = append(asked, string(m[1]))
	}
	if len(asked) < 60 {
		t.Fatalf("only %d expressions were found", len(asked))
	}
	metric := regexp.MustCompile(`\b((?:cmtpd|go|process)_[a-z_]+)(?:\{([^}]*)\})?`)
	pair := regexp.MustCompile(`([a-z]+)="([^"]*)"`)
	lines := strings.Split(metrics, "\n")
	for _, expression := range asked {
		for _, m := range metric.FindAllStringSubmatch(expression, -1) {
			name, want := m[1], pair.FindAllString(m[2], -1)
			want = slices.DeleteFunc(want, func(s string) bool { return s == `job="cmtpd"` }) // Prometheus' own
			if !slices.ContainsFunc(lines, func(line string) bool {
				series, labels, _ := strings.Cut(strings.TrimSpace(line), "{")
				series, _, _ = strings.Cut(series, " ")
				return series == name && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains("{"+labels, w) })
			}) {
				t.Errorf("the daemon has no %s: %s", m[0], expression)
			}
		}
	}
	promtool(t, metrics)
}

// promtool has Debian's promtool look at the daemon's metrics, the alerts with their own tests, the example, and what the
// dashboard asks for.
func promtool(t *testing.T, metrics string) {
	t.Helper()
	cmtptest.Need(t, "promtool")
	records := "groups:\n- name: dashboard\n  rules:\n"
	for _, expression := range expressions(t, dashboard) {
		if !strings.HasPrefix(expression, "label_values(") {
			expression = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(expression)
			quoted, _ := json.Marshal(expression)
			records += "  - {record: a, labels: {e: " + string(quoted) + "}, expr: " + string(quoted) + "}\n"
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(records), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(alerts)
	for _, args := range [][]string{
		{"check", "metrics"}, {"check", "rules", alerts}, {"check", "config", filepath.Join(dir, "prometheus.yml")},
		{"test", "rules", filepath.Join(dir, "alerts_test.yml")}, {"check", "rules", file},
	} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Stdin = strings.NewReader(metrics)
		if out, err := cmd.CombinedOutput(); err != nil || args[1] == "metrics" && len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}

// Every alert has its row under "What to do when", and a test; and no row or test is of one that is gone.
func TestAlerts_Documented(t *testing.T) {
	there := names(t, regexp.MustCompile(`(?m)^ +- alert: (\w+)$`), alerts)
	if len(there) < 10 {
		t.Fatalf("only %d alerts were found", len(there))
	}
	for file, pattern := range map[string]string{
		"../../docs/operations.md":                 "(?m)^\\| `(Cmtpd\\w+)` \\|",
		"../../configs/prometheus/alerts_test.yml": `alertname: (\w+)`,
	} {
		told := names(t, regexp.MustCompile(pattern), file)
		for name := range there {
			if !told[name] {
				t.Errorf("%s has nothing of %s", file, name)
			}
		}
		for name := range told {
			if !there[name] {
				t.Errorf("%s has %s, which there is not", file, name)
			}
		}
	}
}
