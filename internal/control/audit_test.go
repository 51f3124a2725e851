package control_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/control"
	"cmtpd/internal/spool"
)

// Every request that changes something is logged, with who asked and whom it is about; and
// nothing secret is, nor who only looks.
func TestAudit(t *testing.T) {
	var log bytes.Buffer
	c := control.Dial(serve(t, openStore(t), func(srv *http.Server) { control.Audit(srv, slog.New(slog.NewTextHandler(&log, nil))) }))
	alice, bob := mustAddress("alice@example.org"), mustAddress("bob@example.org")
	code := ""
	ids := make([]spool.ID, 40)
	for n := range ids {
		ids[n] = spool.ID(n + 1)
	}
	for _, tt := range []struct {
		do   func() error
		fail bool
		want []string
	}{
		{func() error { _, err := c.Add(register(t, "alice@example.org", 2)); return err }, false, []string{`request="POST /users"`, "done=true", "account=alice@example.org"}},
		{func() error { _, err := c.List(); return err }, false, nil},
		{func() error { _, err := c.Get(alice); return err }, false, nil},
		{func() error { return c.SetDisabled(alice, true) }, false, []string{"request=\"PUT /users/alice@example.org/disabled\"", "done=true"}},
		{func() error { return c.Remove(bob) }, true, []string{"request=\"DELETE /users/bob@example.org\"", "done=false"}},
		{func() error {
			made, err := c.Invite(alice, true, time.Hour)
			if err == nil {
				code = made.Code
			}
			return err
		}, false, []string{`request="POST /invitations"`, "account=alice@example.org", "reset=true"}},
		{func() error { _, err := c.Evaluate(alice, [32]byte{}); return err }, true, []string{"/evaluations\"", "done=false"}},
		{func() error { _, err := c.RemoveAll(t.Context(), ids, "me"); return err }, false, []string{"removals\"", "messages=\"0000000000000001 ", " 0000000000000020\"\n", "messages=\"0000000000000021 ", " 0000000000000028\"\n", "by=me"}},
	} {
		log.Reset()
		if err := tt.do(); (err != nil) != tt.fail {
			t.Fatal(err)
		}
		got := log.String()
		if runtime.GOOS == "linux" && tt.want != nil {
			tt.want = append(tt.want, fmt.Sprintf("uid=%d pid=%d", os.Getuid(), os.Getpid()))
		}
		if n := strings.Count(got, "\n"); n != min(len(tt.want), 1) && n != 2 || code != "" && strings.Contains(got, code) {
			t.Errorf("%d lines: %s", n, got)
		}
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%q does not say %s", got, w)
			}
		}
	}
}
