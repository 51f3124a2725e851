package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/checkup"
	"cmtpd/internal/cmtptest"
)

// A checkResult is the output of check --json.
type checkResult struct {
	OK       bool
	Findings []checkup.Finding
}

// TestServe_Damage changes a byte on the disk of a running daemon. It finds out by itself, says so in
// its log, its metrics and the check, and serves and takes everything else, before a restart and after.
func TestServe_Damage(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"spool.scrub_every": `"1s"`, "metrics.listen": `"127.0.0.1:0"`,
		"postmaster": `"alice@` + cmtptest.Domain + `"`})
	site.AddUsers(t, "alice")
	d := site.Start(t)
	letters := make([]*cmtptest.Letter, 5)
	for i := range letters {
		letters[i] = &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: uint64(i), Length: 1000}}}
	}
	letters[3].Parts[0].Length = 300 << 10 // a file of its own
	for _, l := range letters[:4] {
		deliver(t, d, l)
	}
	if out := site.Must(t, "", "check"); !strings.Contains(out, "note  dns: ") || !strings.Contains(out, "\nnothing is wrong; ") || strings.Contains(out, "WRONG") {
		t.Errorf("the check of a sound server prints %q", out)
	}
	equal(t, "damaged places at first", metric(t, d, "cmtpd_spool_damage"), "0")

	damage(t, site, letters[1])
	line := d.Line(t, "spool is damaged")
	if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "[0000000000000002]") {
		t.Errorf("it logged %s", line)
	}
	checkDamaged(t, site, d)
	deliver(t, d, letters[4])
	deliver(t, d, letters[1]) // its sender brings it again
	for name, want := range map[string]string{
		"cmtpd_spool_failed": "0", "cmtpd_spool_segments": "2", "cmtpd_spool_messages": "6",
		"cmtpd_spool_memory_bytes": "0", "cmtpd_spool_commit_records_count": "7", "cmtpd_spool_commit_seconds_count": "7",
	} {
		equal(t, name, metric(t, d, name), want)
	}
	if metric(t, d, "cmtpd_disk_free_bytes") == "0" || metric(t, d, "cmtpd_spool_bytes") == "0" {
		t.Error("the metrics show no bytes")
	}
	d.Stop(t)
	d = site.Start(t)
	d.Line(t, "spool is damaged")
	checkDamaged(t, site, d)
	d.Stop(t)
	checkDamaged(t, site, nil)
}

// checkDamaged expects the check, and the metrics of a daemon if one runs, to tell of message 2, and
// all other messages to be served.
func checkDamaged(t *testing.T, site *cmtptest.Site, d *cmtptest.Daemon) {
	t.Helper()
	if d != nil {
		equal(t, "cmtpd_spool_damage", metric(t, d, "cmtpd_spool_damage"), "1")
	}
	r := site.Run(t, "", "check")
	if r.Status != 3 || !strings.Contains(r.Out, "spool: damage: log/0000000000000001.seg") ||
		!strings.Contains(r.Out, "messages [0000000000000002]; the rest is served") || !strings.Contains(r.Err, "(1)") {
		t.Errorf("check: %+v", r)
	}
	r = site.Run(t, "", "check", "--json")
	v := decode[checkResult](t, r.Out)
	wrong, idle := 0, false
	for _, f := range v.Findings {
		if !f.Note {
			wrong++
		}
		idle = idle || strings.Contains(f.Text, "no daemon runs")
	}
	if r.Status != 3 || v.OK || wrong != 1 || (d == nil) != idle {
		t.Errorf("check --json: %+v", r)
	}
	for id, status := range map[string]int{"0000000000000001": 0, "0000000000000002": 1, "0000000000000003": 0, "0000000000000004": 0} {
		equal(t, "export of "+id, site.Run(t, "", "spool", "export", id).Status, status)
	}
}

// damage flips a bit of a letter where it lies in the log.
func damage(t *testing.T, site *cmtptest.Site, l *cmtptest.Letter) {
	t.Helper()
	path := filepath.Join(site.Data, "spool", "log", "0000000000000001.seg")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	if _, err := l.Parts[0].WriteTo(&body); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, body.Bytes())
	if at < 0 {
		t.Fatal("the letter is not in the log")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at+500] ^ 1}, int64(at+500)); err != nil {
		t.Fatal(err)
	}
}

// metric returns the value of a metric without labels.
func metric(t *testing.T, d *cmtptest.Daemon, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (.*)$`).FindStringSubmatch(get(t, "http://"+d.Metrics+"/metrics"))
	if m == nil {
		t.Fatalf("there is no metric %s", name)
	}
	return m[1]
}
