package cmtptest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"cmtpd/internal/cmtptest"
)

// post is a program with commands of all kinds.
func post() *cobra.Command {
	nothing := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{Use: "cmtpd"}
	list := &cobra.Command{Use: "list [ADDRESS]", Args: cobra.MaximumNArgs(1), RunE: nothing}
	list.Flags().Bool("json", false, "")
	drop := &cobra.Command{Use: "drop ID...", Args: cobra.MinimumNArgs(1), RunE: nothing}
	hold := &cobra.Command{Use: "hold ID...", Args: cobra.MinimumNArgs(1), RunE: nothing}
	wait := &cobra.Command{Use: "wait", Args: cobra.NoArgs, RunE: nothing}
	wait.Flags().Duration("for", 0, "")
	queue := &cobra.Command{Use: "queue", RunE: nothing}
	queue.AddCommand(list, drop, hold, wait)
	root.AddCommand(queue)
	return root
}

// What is wrong with a command in a document is found, in blocks and in sentences, and what is right is left alone.
func TestCommandLine_Problems(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"```\ncmtpd queue list [ADDRESS]   # all; --json\ncmtpd queue hold | drop ID...  # why\nsudo -u x cmtpd queue wait --for 1h > out\n```", ""},
		{"```\ncmtpd queue lisd\n```", `d:2: cmtpd queue lisd: cmtpd queue has no command "lisd"`},
		{"```\ncmtpd queu list\n```", "d:2: unknown command"},
		{"```\n\ncmtpd queue list --jsn\n```", "d:3: cmtpd queue list --jsn: unknown flag"},
		{"```\ncmtpd queue list   # --jsn\n```", "has no flag --jsn"},
		{"```\ncmtpd queue wait   # as list --json\n```", ""},
		{"```\ncmtpd queue list a b\n```", "accepts at most 1"},
		{"```\ncmtpd queue list [ADDRESS] [b]\n```", "accepts at most 1"},
		{"```\ncmtpd queue drop\n```", "requires at least 1"},
		{"```\nsudo -u cmtpd cmtpd queue drop\n```", "requires at least 1"},
		{"```\ncmtpd queue hold ID | dorp ID\n```", `no command "dorp"`},
		{"```\ncmtpd queue wait | --far 1h\n```", "unknown flag"},
		{"```\ncmtpd queue drop 'x\n```", "a quote is not closed"},
		{"See `cmtpd queue drop`, `queue wait --for` and `queue list ADDRESS`.", ""},
		{"See `cmtpd queue dorp`.", `d:1: cmtpd queue dorp: cmtpd queue has no command "dorp"`},
		{"See `queue wait --far`.", "unknown flag"},
		{"See `queue dorp`.", `no command "dorp"`},
		{"| `queue was read` | a log line |\n\nIt says `queue was read`.", ""},
	} {
		d, err := cmtptest.ParseDocument("d", tt.text)
		if err != nil {
			t.Fatal(err)
		}
		found, checked := cmtptest.CommandLine{New: post}.Problems(d)
		if all := strings.Join(found, "; "); (all == "") != (tt.want == "") || !strings.Contains(all, tt.want) {
			t.Errorf("%q: found %q, want %q", tt.text, all, tt.want)
		}
		if checked == 0 && !strings.HasPrefix(tt.text, "|") {
			t.Errorf("%q: nothing was checked", tt.text)
		}
	}
}

func TestParseDocument(t *testing.T) {
	d, err := cmtptest.ParseDocument("d", "# One\nIt is `so`.\n\n<!-- run: 1; as: bob -->\n```sh\na\n\nb `no`\n```\n## Two\n| `x` | `y` |\n")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.Headings, []string{"One", "Two"}) || len(d.Blocks) != 1 || len(d.Spans) != 3 {
		t.Fatalf("%+v", d)
	}
	b := d.Blocks[0]
	if b.Line != 6 || b.Language != "sh" || b.Marks["run"] != "1" || b.Marks["as"] != "bob" || !slices.Equal(b.Lines, []string{"a", "", "b `no`"}) {
		t.Errorf("%+v", b)
	}
	if s := d.Spans; s[0].Text != "so" || s[0].Line != 2 || s[0].First || s[1].Text != "x" || !s[1].First || s[2].First {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"```\nopen\n", "<!-- run: 1 -->\nno block\n"} {
		if _, err := cmtptest.ParseDocument("d", bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
