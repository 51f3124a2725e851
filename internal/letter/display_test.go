package letter_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/letter"
)

func TestLine(t *testing.T) {
	tests := map[string]string{
		"plain":                         "plain",
		"Grüße, 你好, שלום":               "Grüße, 你好, שלום",
		"family 👨\u200d👩\u200d👧":        "family 👨\u200d👩\u200d👧",
		"می\u200cخواهم":                 "می\u200cخواهم",
		"two\nlines\tand a tab":         "two\uFFFDlines\uFFFDand a tab",
		"\x1b]0;title\x07\x1b[2Jgone":   "\uFFFD]0;title\uFFFD\uFFFD[2Jgone",
		"C1 \u009b31m":                  "C1 \uFFFD31m",
		"exe\u202egpj.":                 "exe\uFFFDgpj.",
		"\u2066a\u2069 \u200fb \u061cc": "\uFFFDa\uFFFD \uFFFDb \uFFFDc",
		"tag \U000E0041":                "tag \uFFFD",
		"\u2028\u2029\ufeff\u00ad":      "\uFFFD\uFFFD\uFFFD\uFFFD",
		"\xff\xfe":                      "\uFFFD\uFFFD",
		"back\b\bspace\rreturn":         "back\uFFFD\uFFFDspace\uFFFDreturn",
	}
	for in, want := range tests {
		if got := letter.Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestText(t *testing.T) {
	if got, want := letter.Text([]byte("a\r\nb\n\tc\rd\x1b[1m\x00\u202e")), "a\nb\n\tc\uFFFDd\uFFFD[1m\uFFFD\uFFFD"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClaim(t *testing.T) {
	tests := []struct{ account, domain, want string }{
		{"alice", "example.net", "claims to be from alice@example.net, unproven"},
		{"ALICE", "Example.Net", "claims to be from alice@example.net, unproven"},
		{"", "", "does not say who it is from"},
		{"al ice\x1b[2J", "example.net", "claims to be from \"al ice\uFFFD[2J@example.net\", unproven, and that is no address"},
		{"", "Example.Net", "claims to be from the server of example.net itself, unproven"},
		{"", "no domain", "claims to be from \"@no domain\", unproven, and that is no address"},
	}
	for _, tt := range tests {
		if got := letter.Claim(cmtp.Header{SourceAccount: tt.account, SourceDomain: tt.domain}); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestFileName(t *testing.T) {
	long := strings.Repeat("ü", 200)
	tests := map[string]string{
		"report.pdf":                            "report.pdf",
		"Grüße 2.tar.gz":                        "Grüße 2.tar.gz",
		"../../etc/passwd":                      "_.._.._etc_passwd",
		`..\..\boot.ini`:                        "_.._.._boot.ini",
		"/etc/shadow":                           "_etc_shadow",
		".bashrc":                               "_.bashrc",
		"..":                                    "attachment",
		"-rf":                                   "_-rf",
		"":                                      "attachment",
		" . ":                                   "attachment",
		"a\x00b\nc\x1b[2J":                      "a_b_c_[2J",
		"exe\u202efdp.scr":                      "exe_fdp.scr",
		"nul":                                   "_nul",
		"Com1.txt":                              "_Com1.txt",
		"command.txt":                           "command.txt",
		"lpt³.tar.gz":                           "_lpt³.tar.gz",
		"COM¹ ":                                 "_COM¹",
		"com10":                                 "com10",
		"com\u00e9":                             "com\u00e9",
		"conout$":                               "_conout$",
		strings.Repeat("a", 199) + ".b " + long: strings.Repeat("a", 199),
		"trailing. . .":                         "trailing",
		"C:evil":                                "C_evil",
		"\xff\xfe":                              "__",
		long + ".pdf":                           strings.Repeat("ü", 98) + ".pdf",
		long + "." + long:                       strings.Repeat("ü", 100),
		"." + long + ".tar.gz":                  "_." + strings.Repeat("ü", 97) + ".gz",
	}
	for in, want := range tests {
		if got := letter.FileName(in); got != want {
			t.Errorf("FileName(%.40q) = %q, want %q", in, got, want)
		}
	}
}

func openRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	path := t.TempDir()
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir, path
}

func TestSave(t *testing.T) {
	dir, path := openRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Symlink(outside, filepath.Join(path, "a.txt")); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a (2).txt", "a (3).txt", "a (4).txt"} {
		got, err := letter.Save(dir, attachment("a.txt", want))
		if err != nil || got != want {
			t.Fatalf("attachment %d saved as %q, %v; want %q", i, got, err, want)
		}
	}
	for _, name := range []string{"a (2).txt", "a (3).txt", "a (4).txt"} {
		if b, err := dir.ReadFile(name); err != nil || string(b) != name {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
		if info, err := dir.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a link was followed out of the directory")
	}
}

func TestSave_Fails(t *testing.T) {
	dir, path := openRoot(t)
	a := attachment("a.txt", "only this")
	a.Data = failing{a.Data}
	if _, err := letter.Save(dir, a); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v, want the data's own", err)
	}
	left, err := os.ReadDir(path)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type failing struct{ io.ReaderAt }

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off > 0 {
		return 0, io.ErrNoProgress
	}
	return f.ReaderAt.ReadAt(b[:min(len(b), 3)], 0)
}
