package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A table is one section of the document.
type table struct {
	title  string
	note   string
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| %s |\n|%s\n", t.title, t.note, strings.Join(t.header, " | "), strings.Repeat("---|", len(t.header)))
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(r, " | "))
	}
	return b.String()
}

// A series is one cell measured in every round.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	if n := len(sorted); n%2 == 1 {
		return sorted[n/2]
	} else if n > 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return 0
}

// over returns the ratio to other in every round.
func (s series) over(other series) series {
	ratios := make(series, len(s))
	for i := range s {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

// verdict shows a ratio against its target.
func verdict(ratio, target float64) string {
	if ratio >= target {
		return fmt.Sprintf("%.2f (target %.2g: met)", ratio, target)
	}
	return fmt.Sprintf("%.2f (target %.2g: **missed by %.0f %%**)", ratio, target, 100*(1-ratio/target))
}

// atMost shows a figure against what it may not exceed.
func atMost(figure, target float64, unit string) string {
	if figure <= target {
		return fmt.Sprintf("target %g%s at most: met", target, unit)
	}
	return fmt.Sprintf("target %g%s at most: **missed by %.0f %%**", target, unit, 100*(figure/target-1))
}

func number(f float64) string {
	if f < 100 {
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

// preamble names the machine and the method.
func preamble(rounds int) string {
	return fmt.Sprintf(`# Benchmarks

Written by `+"`make bench`"+` on %s.

**Machine:** %d CPUs, %s; Linux %s; %s; %s; %s. Everything on loopback, but for "Fetching over a link": the load, the peers and cmtpd share the CPUs.
**Method:** every round runs every cell once, in an order that turns from round to round; the figures are medians of %d rounds, the ratios
medians of the ratios within a round. Absolute figures of a shared machine swing by tens of percent; only ratios of one run mean anything.
`, time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), cpuModel(), firstLine("uname", "-r"), runtime.Version(),
		firstLine("haproxy", "-v"), "Postfix "+firstLine("postconf", "-h", "mail_version"), rounds)
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return name + " (version unknown)"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " - ")
	return strings.TrimSpace(line)
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "CPU unknown"
	}
	for line := range strings.Lines(string(info)) {
		if model, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(model, "\t :"))
		}
	}
	return "CPU unknown"
}
