package terminal_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/terminal"
)

func TestAskLine(t *testing.T) {
	longest := strings.Repeat("x", terminal.MaxLine)
	for in, want := range map[string]string{
		"a line\nnext": "a line", "a line\r\n": "a line", "\n": "", longest + "\n": longest, longest + "xy\n": longest + "x",
	} {
		var out bytes.Buffer
		got, err := terminal.AskLine(t.Context(), strings.NewReader(in), &out, "Line: ")
		if err != nil || string(got) != want || out.String() != "Line: " {
			t.Errorf("%.20q: %.20q, %v, %q", in, got, err, out.String())
		}
	}
	if _, err := terminal.AskLine(t.Context(), strings.NewReader("no end"), io.Discard, ""); !errors.Is(err, io.EOF) {
		t.Errorf("half a line: %v", err)
	}
}

func TestInterruptible(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := terminal.AskLine(ctx, r, io.Discard, ""); !errors.Is(err, why) {
		t.Errorf("a question that is ended ends with %v", err)
	}
}

func TestAskPassword_NoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	if _, err := terminal.AskPassword(t.Context(), f, &out, "Password: "); err == nil || out.Len() > 0 || terminal.Is(f) {
		t.Errorf("a file is asked: %v, %q", err, out.String())
	}
}
