package shorebird_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/shorebird"
)

// FuzzDraft: a letter that is taken from an editor is written for it again so that it is taken as the same letter; and
// nothing that is refused is lost.
func FuzzDraft(f *testing.F) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	was := &cache.Draft{ID: 7, Files: []cache.File{{Name: "a", Size: 1}, {Name: "b \x1b", Size: 2}, {Name: "a", Size: 3}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if strings.Contains(strings.ToLower(string(b)), "ttach") {
			return // files are not for a fuzzer
		}
		d, wrong := shorebird.ParseDraft(b, was, "/nonexistent")
		if len(wrong) > 0 {
			return
		}
		again := shorebird.FormatDraft(d)
		got, wrong := shorebird.ParseDraft(again, was, "/nonexistent")
		if len(wrong) > 0 || !reflect.DeepEqual(got, d) {
			t.Fatalf("%q became\n%+v,\nwritten\n%q\nbecame\n%+v, %q", b, d, again, got, wrong)
		}
		if marked := shorebird.Marked(shorebird.Marked(again, []string{"one", "two\nlines"}), nil); string(marked) != string(again) {
			t.Fatalf("marked, it is %q", marked)
		}
	})
}

// What is wrong with a letter is told in words, all of it at once, and the rest is read.
func TestParseDraft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := &cache.Draft{ID: 3, Files: []cache.File{{Name: "kept", Size: 9}}}
	d, wrong := shorebird.ParseDraft([]byte("# a comment\r\nfrom: "+alice+"\r\nTO: "+bob+",, "+carol+"\nto: "+nobody+"\nSubject: A: b\nCopies: "+bob+
		"\nReply-To: "+carol+"\nAttach: ~/x\nForward: kept\n\n# text\n\nmore"), was, filepath.Dir(file))
	if len(wrong) > 0 || d.ID != 3 || d.From != alice || strings.Join(d.Recipients, " ") != bob+" "+carol+" "+nobody || d.Subject != "A: b" ||
		d.CC[0] != bob || d.ReplyTo != carol || len(d.Files) != 2 || d.Files[0].Path != file || d.Files[0].Size != 4 || d.Files[1].Size != 9 || d.Text != "# text\n\nmore" {
		t.Errorf("got %+v, %q", d, wrong)
	}
	d, wrong = shorebird.ParseDraft([]byte("Subject: a\x1bb\nFrom: me\nCc: "+bob+"\nAttach: /nonexistent/y\nForward: kept\nForward: kept\nno header\n\ntext\xff"), was, "")
	for i, want := range []string{"not UTF-8", "Subject: ", "From: ", "line 3", "Attach: ", "Forward: ", "line 7", "nobody whom it is to"} {
		if i >= len(wrong) || !strings.Contains(wrong[i], want) {
			t.Fatalf("it says %q, not %q", wrong, want)
		}
	}
	if d.Text != "Cc: "+bob+"\nno header\ntext\uFFFD" || len(d.Files) != 2 || d.Files[0].Path != "/nonexistent/y" {
		t.Errorf("kept %+v", d)
	}
	most := strings.Repeat("x", 16<<20)
	head := "From: " + alice + "\nTo: " + bob + "\n\n"
	if _, wrong = shorebird.ParseDraft([]byte(head+most), was, ""); len(wrong) > 0 {
		t.Errorf("the longest text: %q", wrong)
	}
	if _, wrong = shorebird.ParseDraft([]byte(head+most+"x"), was, ""); len(wrong) != 1 {
		t.Errorf("one byte more: %q", wrong)
	}
}
