package nearest_test

import (
	"strings"
	"testing"

	"cmtpd/internal/nearest"
)

func TestDistance(t *testing.T) {
	long := strings.Repeat("a", 65)
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"from", "from", 0}, {"form", "from", 1}, {"fro", "from", 1}, {"fromm", "from", 1},
		{"frim", "from", 1}, {"kitten", "sitting", 3}, {long[1:], long[1:], 0}, {long, long, 65}, {"a", long, 65}, {long, "a", 65},
	} {
		if got := nearest.Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q are %d apart, not %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestWord(t *testing.T) {
	words := []string{"from", "to", "subject"}
	for word, want := range map[string]string{"form": "from", "sub": "subject", "subjekt": "subject", "xxxx": "", "quite another": "",
		strings.Repeat("from", 1000): ""} {
		if got := nearest.Word(word, words); got != want {
			t.Errorf("%.20q means %q, not %q", word, got, want)
		}
	}
}
