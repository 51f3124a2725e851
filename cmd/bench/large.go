package main

import "fmt"

const (
	mib = 1 << 20
	gib = 1 << 30
)

// large measures what one very large message takes of the daemon's memory.
func large(l *lab) (*table, error) {
	t := &table{
		title:  "Memory of a large message",
		note:   "By how much the most that was ever resident of the daemon grows with one message of 2 GiB, after a few of 4 MiB.",
		header: []string{"", "figure", ""},
	}
	addr, cmd, err := l.cmtpd(1024, "max_message_size = \"3GiB\"\n")
	if err != nil {
		return nil, err
	}
	if _, err := l.accept(addr, 0, 1, 4*mib, 4); err != nil {
		return nil, err
	}
	before, err := memory(cmd.Process.Pid, "VmHWM")
	if err != nil {
		return nil, err
	}
	a, err := l.accept(addr, 0, 1, 2*gib, 1)
	if err != nil {
		return nil, err
	}
	after, err := memory(cmd.Process.Pid, "VmHWM")
	if err != nil {
		return nil, err
	}
	grown := (after - before) / 1024
	t.add("growth", fmt.Sprintf("%.1f MiB", grown), atMost(grown, 16, " MiB"))
	t.add("acceptance", fmt.Sprintf("%.0f MiB/s", a.rate*2048), "")
	return t, nil
}
