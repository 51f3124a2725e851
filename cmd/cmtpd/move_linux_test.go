package main_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/setup"
)

// swaks sends a message from a loopback address of the client's own.
func swaks(t *testing.T, server, from, to string, more ...string) (out string, err error) {
	t.Helper()
	host, port, _ := net.SplitHostPort(server)
	b, err := exec.Command("swaks", append([]string{"--server", host, "--port", port, "--local-interface", from, "--helo", "client.example",
		"--from", "a@client.example", "--to", to, "--timeout", "20"}, more...)...).CombinedOutput()
	return string(b), err
}

// TestMove: with the steps that init prints each mail server goes behind cmtpd, learns whom mail comes
// from, and relays for no stranger, though it does for programs of the machine, whose address is cmtpd's too.
func TestMove(t *testing.T) {
	t.Parallel()
	cmtptest.Need(t, "swaks")
	for _, tt := range []struct {
		kind  setup.Kind
		proxy config.ProxyProtocol
		edit  func(*testing.T, *cmtptest.Stock)
	}{
		{setup.Postfix, config.ProxyV1, nil},
		{setup.Postfix, config.ProxyV2, nil},
		{setup.OpenSMTPD, config.ProxyV2, nil},
		{setup.Exim, config.ProxyV1, nil},
		{setup.Exim, config.ProxyV2, func(t *testing.T, s *cmtptest.Stock) {
			s.Edit(t, "etc/exim4/update-exim4.conf.conf", "dc_use_split_config='false'", "dc_use_split_config='true'")
		}},
	} {
		t.Run(string(tt.kind)+" "+string(tt.proxy), func(t *testing.T) {
			t.Parallel()
			stock := cmtptest.NewStock(t, tt.kind)
			if tt.edit != nil {
				tt.edit(t, stock)
			}
			backend := cmtptest.FreePort(t)
			move, err := setup.PlanMove(os.DirFS(stock.Root), tt.kind, netip.MustParseAddrPort(backend), tt.proxy)
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range move.Steps {
				for _, command := range step.Commands {
					stock.Run(t, command)
				}
			}
			stock.Start(t)
			cmtptest.AwaitPort(t, backend)
			d := initSite(t, "--domain", "cmtp.example", "--hostname", "mail.example", "--backend", backend, "--proxy", string(tt.proxy)).Start(t)

			client := cmtptest.Loopback()
			if out, err := swaks(t, d.Shared[0], client, "bob@mail.example"); err != nil {
				t.Errorf("sending: %v\n%s", err, out)
			}
			stock.Logs(t, regexp.MustCompile(`[\[=]`+regexp.QuoteMeta(client)+`\b`))
			if out, err := swaks(t, d.Shared[0], client, "victim@example.net"); err == nil || !regexp.MustCompile(`(?m)^<\*\* +[45]\d\d `).MatchString(out) {
				t.Errorf("relaying for a stranger: %v\n%s", err, out)
			}
			if out, err := swaks(t, d.Shared[0], "127.0.0.1", "elsewhere@example.net", "--quit-after", "RCPT"); err != nil {
				t.Errorf("relaying for a program of the machine's own: %v\n%s", err, out)
			}
		})
	}
}

// TestMove_Configs: the files in configs/ are what the steps come to.
func TestMove_Configs(t *testing.T) {
	t.Parallel()
	backend := netip.MustParseAddrPort("127.0.0.1:10025")
	for _, tt := range []struct {
		kind         setup.Kind
		file, result string
	}{
		{setup.Postfix, "postfix/master.cf", "etc/postfix/master.cf"},
		{setup.OpenSMTPD, "opensmtpd/smtpd.conf", "etc/smtpd.conf"},
		{setup.Exim, "exim/000_cmtpd", "etc/exim4/exim4.conf.localmacros"},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			stock := cmtptest.NewStock(t, tt.kind)
			if tt.kind == setup.OpenSMTPD { // as the package has it, but for whom it listens
				stock.Edit(t, "etc/smtpd.conf", "listen on all hostname mail.example", "listen on all")
			}
			move, err := setup.PlanMove(os.DirFS(stock.Root), tt.kind, backend, config.ProxyV2)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := json.Marshal(move)
			for _, step := range move.Steps {
				for _, command := range step.Commands {
					stock.Run(t, command)
				}
			}
			want, err := os.ReadFile(filepath.Join("../../configs", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(stock.Root, tt.result))
			if err != nil {
				t.Fatal(err)
			}
			if live, text, ok := isIn(string(want), string(got)); !ok {
				t.Errorf("%s has %q; by the steps %s\nis\n%s", tt.file, live, said, text)
			}
			// What the comments say besides is what init says.
			for line := range strings.Lines(string(want)) {
				if c, ok := strings.CutPrefix(strings.TrimSpace(line), "#   "); ok && !strings.HasPrefix(c, "systemctl ") {
					quoted, _ := json.Marshal(c)
					if !strings.Contains(string(said), strings.Trim(string(quoted), `"`)) {
						t.Errorf("%s has %q, which is none of the steps %s", tt.file, c, said)
					}
				}
			}
		})
	}
}

// isIn reports whether the settings of a file, without its comments, stand one behind the other in another. It returns
// both as they were compared.
func isIn(want, got string) (live []string, text string, ok bool) {
	words := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	var have []string
	for line := range strings.Lines(got) {
		have = append(have, words(line))
	}
	text = "\n" + strings.Join(have, "\n") + "\n"
	for line := range strings.Lines(want) {
		if !strings.HasPrefix(line, "#") {
			live = append(live, words(line))
		}
	}
	return live, text, len(live) > 0 && strings.Contains(text, "\n"+strings.Join(live, "\n")+"\n")
}
