package setup_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cmtpd/internal/config"
	"cmtpd/internal/setup"
)

var backend = netip.MustParseAddrPort("127.0.0.1:10025")

func files(named ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(named); i += 2 {
		m[named[i]] = &fstest.MapFile{Data: []byte(named[i+1])}
	}
	return m
}

// TestPlanMove: the commands, for configurations as they are met.
func TestPlanMove(t *testing.T) {
	const master, smtpd, debconf = "etc/postfix/master.cf", "etc/smtpd.conf", "etc/exim4/update-exim4.conf.conf"
	for _, tt := range []struct {
		name  string
		kind  setup.Kind
		files fstest.MapFS
		proxy config.ProxyProtocol
		want  []string
		not   string
	}{
		{"Postfix with postscreen", setup.Postfix, files(master, "#smtp inet n - y - - smtpd\nsmtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n"), config.ProxyV2, []string{
			"cp -p /etc/postfix/master.cf /etc/postfix/master.cf.before-cmtpd", "postconf -F 'smtp/inet/service=127.0.0.1:10025'",
			"postconf -P '127.0.0.1:10025/inet/postscreen_upstream_proxy_protocol=haproxy'", "postfix check"}, ""},
		{"Postfix at two addresses", setup.Postfix, files(master, "192.0.2.1:smtp inet n - y - - smtpd\n  -o content_filter=x\n[2001:db8::1]:25 inet n - y - - smtpd\nsubmission inet n - y - - smtpd\n"), config.ProxyV1, []string{
			"postconf -F '192.0.2.1:smtp/inet/service=127.0.0.1:10025'", "postconf -MX '[2001:db8::1]:25/inet'"}, "submission/inet"},
		{"Postfix, unreadable", setup.Postfix, files(), config.ProxyV2, []string{"postconf -F 'smtp/inet/service=127.0.0.1:10025'"}, "inet_protocols"},
		{"Postfix without IPv6", setup.Postfix, files(master, "smtp inet n - y - - smtpd\n", "etc/postfix/main.cf", "inet_protocols = all\n#inet_protocols = all\ninet_protocols = ipv4\n"), config.ProxyV2, []string{"postconf -e inet_protocols=all"}, ""},
		{"Postfix without PROXY", setup.Postfix, files(master, "smtp inet n - y - - smtpd\n"), config.ProxyNone, []string{"postfix check"}, "haproxy"},
		{"OpenSMTPD", setup.OpenSMTPD, files(smtpd, "pki mx cert \"x\"\nlisten on socket\nlisten on eth0 inet4 port 25 tls pki mx # \nlisten on eth1 smtps pki mx\nlisten on eth0 port submission tls-require\nlisten on lo0\n"), config.ProxyV2, []string{
			"sed -i.before-cmtpd -e '3c listen on 127.0.0.1 port 10025 proxy-v2 tls pki mx' -e '6s/^/# /' /etc/smtpd.conf", "smtpd -n"}, ""},
		{"OpenSMTPD, long lines", setup.OpenSMTPD, files(smtpd, "listen on eth0 \\\n tls\n"), config.ProxyV2, []string{"smtpd -n"}, "sed"},
		{"OpenSMTPD, unreadable", setup.OpenSMTPD, files(), config.ProxyV2, []string{"smtpd -n"}, "sed"},
		{"Exim, whole", setup.Exim, files(debconf, "dc_local_interfaces='0.0.0.0.25 ; 0.0.0.0.587'\ndc_use_split_config='false'\n"), config.ProxyV2, []string{
			`sed -i.before-cmtpd -e 's/^dc_local_interfaces=.*/dc_local_interfaces='\''127.0.0.1.10025 ; 0.0.0.0.587'\''/' /etc/exim4/update-exim4.conf.conf`,
			`printf '%s\n' 'hosts_proxy = ${if eq{$received_port}{10025}{<; 127.0.0.1 ; ::1}{}}' >> /etc/exim4/exim4.conf.localmacros`, "update-exim4.conf"}, "apt-get"},
		{"Exim, split", setup.Exim, files(debconf, "dc_use_split_config='true'\n"), config.ProxyV1, []string{
			`printf '%s\n' 'hosts_proxy = ${if eq{$received_port}{10025}{<; 127.0.0.1 ; ::1}{}}' > /etc/exim4/conf.d/main/000_cmtpd`}, ""},
		{"Exim, the light build", setup.Exim, files(debconf, "", "usr/share/doc/exim4-daemon-light/copyright", ""), config.ProxyV2, []string{"apt-get install -y exim4-daemon-heavy", "exim4 -bV | grep -w PROXY"}, ""},
		{"Exim, the light build without PROXY", setup.Exim, files(debconf, "", "usr/share/doc/exim4-daemon-light/copyright", ""), config.ProxyNone, []string{"update-exim4.conf"}, "hosts_proxy"},
		{"Exim, by hand", setup.Exim, files(debconf, "", "etc/exim4/exim4.conf", ""), config.ProxyV2, []string{"exim4 -bV"}, "sed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := setup.PlanMove(tt.files, tt.kind, backend, tt.proxy)
			if err != nil {
				t.Fatal(err)
			}
			var commands []string
			for _, s := range m.Steps {
				if s.Text == "" {
					t.Error("a step says nothing")
				}
				commands = append(commands, s.Commands...)
			}
			for _, want := range tt.want {
				if !slices.Contains(commands, want) {
					t.Errorf("there is no %s in\n%s", want, strings.Join(commands, "\n"))
				}
			}
			if all := strings.Join(commands, "\n"); tt.not != "" && strings.Contains(all, tt.not) {
				t.Errorf("there is %s in\n%s", tt.not, all)
			}
			if b, err := json.Marshal(m); err != nil || strings.Contains(string(b), "null") {
				t.Errorf("as JSON: %s, %v", b, err)
			}
		})
	}
}

// TestPlanMove_Refuses what cannot work, and says how the port is let go.
func TestPlanMove_Refuses(t *testing.T) {
	if _, err := setup.PlanMove(files(), setup.OpenSMTPD, backend, config.ProxyV1); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("OpenSMTPD with v1: %v", err)
	}
	if _, err := setup.PlanMove(files(), setup.Cmtpd, backend, config.ProxyV2); err == nil {
		t.Error("cmtpd behind itself")
	}
	for want, f := range map[string]fstest.MapFS{"service exim4 restart": files(), "systemctl restart exim4": files("run/systemd/system/x", "")} {
		if m, err := setup.PlanMove(f, setup.Exim, backend, config.ProxyV2); err != nil || !slices.Equal(m.Switch, []string{want}) {
			t.Errorf("%+v, %v; want %s", m, err, want)
		}
	}
}

// TestAnswers_Move: who moves, and who has done so.
func TestAnswers_Move(t *testing.T) {
	at25 := func(k setup.Kind) *setup.Facts { return &setup.Facts{Port25: &setup.Listener{Kind: k}} }
	for _, tt := range []struct {
		name, backend string
		found         *setup.Facts
		files         fstest.MapFS
		want          string
	}{
		{"the one on the port", "127.0.0.1:10025", at25(setup.Postfix), files(), "Postfix"},
		{"localhost", "localhost:10025", at25(setup.Exim), files(), "Exim"},
		{"no backend", "", at25(setup.Postfix), files(), ""},
		{"another machine", "192.0.2.1:25", at25(setup.Postfix), files(), ""},
		{"unknown", "127.0.0.1:10025", at25(""), files(), ""},
		{"cmtpd itself", "127.0.0.1:10025", at25(setup.Cmtpd), files(), ""},
		{"stopped", "127.0.0.1:10025", &setup.Facts{Installed: []setup.Kind{setup.Exim}}, files(), "Exim"},
		{"moved", "127.0.0.1:10025", &setup.Facts{Installed: []setup.Kind{setup.Exim}}, fstest.MapFS{"proc/net/tcp": sockets("0A", "127.0.0.1:10025")}, ""},
	} {
		a := &setup.Answers{Backend: tt.backend, Proxy: config.ProxyV2}
		m, err := a.Move(tt.files, tt.found)
		got := ""
		if m != nil {
			got = m.Server
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

// A command that is shown is what it says when it is pasted.
func TestWord(t *testing.T) {
	for s, want := range map[string]string{"/etc/cmtpd/cmtpd.toml": "/etc/cmtpd/cmtpd.toml", "/srv/a b;id": "'/srv/a b;id'", "": "''", "-x": "'-x'", "it's": `'it'\''s'`, "a\n": "'a\n'"} {
		if got := setup.Word(s); got != want {
			t.Errorf("%q is the word %s", s, got)
		}
	}
}
