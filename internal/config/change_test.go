package config_test

import (
	"reflect"
	"slices"
	"testing"

	"cmtpd/internal/config"
)

// TestConfig_Changes: what differs is named with both values, as a person would write them, and a
// daemon takes of it what it can.
func TestConfig_Changes(t *testing.T) {
	was := mustParse(t, minimal+`
postmaster = "alice@example.org"
limits.max_message_size = "1MiB"
[aliases]
"gone@example.org" = "alice@example.org"
"kept@example.org" = "alice@example.org"
"moved@example.org" = "alice@example.org"
`)
	is := mustParse(t, `
hostname = "mx.example.org"
domains = ["example.org", "example.net"]
shutdown_grace = "1m"
listen.addresses = [":25", "127.0.0.1:2525"]
listen.proxy_from = ["192.0.2.0/24"]
limits.max_message_size = "2MiB"
limits.large_message = "128KiB"
accounts.plain_login = false
log.level = "debug"
[aliases]
"kept@example.org" = "alice@example.org"
"moved@example.org" = "bob@example.org"
"new@example.org" = "bob@example.org"
`)
	want := []config.Change{
		{`accounts.plain_login`, "true", "false", true, false},
		{`aliases."gone@example.org"`, "alice@example.org", "", true, false},
		{`aliases."moved@example.org"`, "alice@example.org", "bob@example.org", true, false},
		{`aliases."new@example.org"`, "", "bob@example.org", true, false},
		{`domains`, "example.org", "example.org, example.net", false, false},
		{`limits.large_message`, "256KiB", "128KiB", false, false},
		{`limits.max_message_size`, "1MiB", "2MiB", true, false},
		{`listen.addresses`, ":25", ":25, 127.0.0.1:2525", false, false},
		{`listen.proxy_from`, "", "192.0.2.0/24", true, false},
		{`log.level`, "info", "debug", true, false},
		{`postmaster`, "alice@example.org", "", true, true},
		{`shutdown_grace`, "30s", "1m0s", true, false},
	}
	if got := was.Changes(is); !slices.Equal(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	merged := was.Reloaded(is)
	var left []string
	for _, c := range merged.Changes(is) {
		left = append(left, c.Key)
	}
	if !slices.Equal(left, []string{"domains", "limits.large_message", "listen.addresses"}) {
		t.Errorf("after a reload these are still to come: %q", left)
	}
	if merged.Limits.LargeMessage != was.Limits.LargeMessage || merged.Limits.MaxMessageSize != is.Limits.MaxMessageSize {
		t.Errorf("a reload takes %+v", merged.Limits)
	}
	// A file that is cut off says less, and is none the less whole: what it does not say any more is told apart.
	cut := mustParse(t, minimal+"limits.max_message_size = \"1MiB\"\n")
	want = []config.Change{
		{`accounts.plain_login`, "false", "true", true, true},
		{`aliases."kept@example.org"`, "alice@example.org", "", true, false},
		{`aliases."moved@example.org"`, "bob@example.org", "", true, false},
		{`aliases."new@example.org"`, "bob@example.org", "", true, false},
		{`domains`, "example.org, example.net", "example.org", false, false},
		{`limits.large_message`, "128KiB", "256KiB", false, true},
		{`limits.max_message_size`, "2MiB", "1MiB", true, false},
		{`listen.addresses`, ":25, 127.0.0.1:2525", ":25", false, true},
		{`listen.proxy_from`, "192.0.2.0/24", "", true, true},
		{`log.level`, "debug", "info", true, true},
		{`shutdown_grace`, "1m0s", "30s", true, true},
	}
	if got := is.Changes(cut); !slices.Equal(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if got := was.Changes(mustParse(t, string(encode(t, was)))); got != nil {
		t.Errorf("the same file again changes %+v", got)
	}
}

// TestConfig_Changes_All: a change of any key shows, and says by itself whether a daemon takes it.
func TestConfig_Changes_All(t *testing.T) {
	was := mustParse(t, minimal)
	for _, key := range config.Keys() {
		if key == "aliases" {
			continue
		}
		is := *was
		field(t, &is, key).SetZero()
		if before := field(t, was, key); before.IsZero() || before.Kind() == reflect.Slice && before.Len() == 0 {
			is = *was
			switch v := field(t, &is, key); v.Kind() {
			case reflect.Bool:
				v.SetBool(true)
			case reflect.String:
				v.SetString("x")
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			default:
				v.Set(reflect.ValueOf(mustAddress(t, "alice@example.org")))
			}
		}
		changes := was.Changes(&is)
		if len(changes) != 1 || changes[0].Key != key || changes[0].Old == changes[0].New {
			t.Errorf("a change of %s is %+v", key, changes)
			continue
		}
		if live := changes[0].Live; live == slices.Contains(config.RestartKeys(), key) {
			t.Errorf("%s: live is %v", key, live)
		}
		if left := was.Reloaded(&is).Changes(&is); (len(left) == 0) != changes[0].Live {
			t.Errorf("%s: after a reload %+v is left", key, left)
		}
	}
}
