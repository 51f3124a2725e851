package shorebird_test

import (
	"fmt"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/shorebird"
)

// A server proves the users of its own domain, and no others.
func TestMessageReport_Standing(t *testing.T) {
	home := must(address.ParseDomain("example.org"))
	for _, tt := range []struct {
		domain   string
		standing cmtp.Standing
		want     shorebird.Standing
		says     cmtp.Standing // whose words they are
	}{
		{"example.org", cmtp.StandingSubmitted, shorebird.Vouched, cmtp.StandingSubmitted},
		{"EXAMPLE.org", cmtp.StandingSubmitted, shorebird.Vouched, cmtp.StandingSubmitted},
		{"example.net", cmtp.StandingSubmitted, shorebird.Unproven, cmtp.StandingClaimed},
		{"sub.example.org", cmtp.StandingSubmitted, shorebird.Unproven, cmtp.StandingClaimed},
		{"", cmtp.StandingSubmitted, shorebird.Unproven, cmtp.StandingClaimed},
		{"example.net", cmtp.StandingVouched, shorebird.Vouched, cmtp.StandingVouched},
		{"example.net", cmtp.StandingServer, shorebird.Serverly, cmtp.StandingServer},
		{"example.org", cmtp.StandingClaimed, shorebird.Unproven, cmtp.StandingClaimed},
		{"example.org", 5, shorebird.Unproven, cmtp.StandingClaimed},
	} {
		m := &cache.Message{Standing: tt.standing, Header: cmtp.Header{SourceAccount: "ben", SourceDomain: tt.domain}, Opened: &cache.Opened{}}
		v := shorebird.ReadBy(m, home)
		if v.Source != tt.want || v.ServerSays != shorebird.ServerSays(tt.says) {
			t.Errorf("%d of %q: %s, %q", tt.standing, tt.domain, v.Source, v.ServerSays)
		}
	}
}

func TestReadReport_Attachments(t *testing.T) {
	for n, last := range map[int]string{0: "", 50: "50. x, text/plain, 1 bytes", 51: "and 1 more: --json shows all", 5000: "and 4950 more: --json shows all"} {
		var all []shorebird.AttachmentReport
		for i := range n {
			all = append(all, shorebird.AttachmentReport{Number: i + 1, Name: "x", Type: "text/plain", Size: 1})
		}
		rows := shorebird.Attachments(all)
		if len(rows) != min(n, 51) || n > 0 && rows[len(rows)-1][1] != last {
			t.Errorf("%d: %s", n, fmt.Sprint(rows))
		}
	}
}
