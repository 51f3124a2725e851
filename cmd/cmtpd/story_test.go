package main_test

import (
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// grep returns the texts of the lines of a log that hold a word, in their order, as grep finds them.
func grep(log, word string) (texts []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, word) {
			texts = append(texts, regexp.MustCompile(`msg=("[^"]*"|\S+)`).FindStringSubmatch(line)[1])
		}
	}
	return texts
}

// A message's number, its digest and a connection's id are all that one needs to follow a message through the logs
// of two servers, from its submission to its deletion by its reader.
func TestLog_Story(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	info := cmtptest.Settings{"log.level": `"info"`}
	a, b := w.realm("a.example", info), w.realm("b.example", info)
	ch := w.signIn(a)
	w.send(ch, a, b.alice(), w.keyOf(ch, b), "a letter with a story")
	queued := a.await(w, "message queued")
	a.await(w, "message delivered")
	digest := cmtptest.Field(queued, "digest")

	reader := w.signIn(b)
	page, err := reader.List(cmtp.ListQuery{Count: 10})
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	number := page.Entries[0].Number
	if _, err := reader.Fetch(cmtp.FetchQuery{Number: number, Length: cmtp.MaxNumber}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if n, err := reader.Delete([]uint64{number}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	reader.Close()
	ch.Close()
	for r, line := range map[*realm]string{a: queued, b: b.await(w, "messages deleted")} {
		r.await(w, "session ended", cmtptest.Field(line, "conn"))
	}
	a.Stop(t)
	b.Stop(t)

	if len(digest) != 64 || !strings.Contains(b.Log(), digest) {
		t.Fatalf("the digest is %q", digest)
	}
	there := ""
	for line := range strings.Lines(b.Log()) {
		if strings.Contains(line, digest) {
			there = line
		}
	}
	for _, step := range []struct {
		where, log, word string
		want             []string
	}{
		{"the digest at home", a.Log(), digest, []string{`"message queued"`, `"message delivered"`}},
		{"its number at home", a.Log(), cmtptest.Field(queued, "message"), []string{`"message queued"`, `"message delivered"`}},
		{"the connection at home", a.Log(), cmtptest.Field(queued, "conn"), []string{`"message queued"`, `"session ended"`}},
		{"the digest there", b.Log(), digest, []string{`"message stored"`}},
		{"its number there", b.Log(), cmtptest.Field(there, "message"), []string{`"message stored"`, `"messages fetched"`, `"messages deleted"`}},
		{"the connection there", b.Log(), cmtptest.Field(there, "conn"), []string{`"message stored"`, `"session ended"`}},
	} {
		if got := grep(step.log, step.word); !slices.Equal(got, step.want) {
			t.Errorf("%s (%s): %q, want %q", step.where, step.word, got, step.want)
		}
	}
}
