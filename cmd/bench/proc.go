package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is what /proc counts processor time in: USER_HZ, 100 on every Linux.
const clockTick = 10 * time.Millisecond

// cpuTime returns the processor time that a process, its children and those it
// has waited for have used.
func cpuTime(pid int) (time.Duration, error) {
	total, err := ownTime(pid)
	if err != nil {
		return 0, err
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		child, fields, err := procStat(path)
		if err != nil || fields[1] != strconv.Itoa(pid) { // gone, or not ours
			continue
		}
		if t, err := ownTime(child); err == nil {
			total += t
		}
	}
	return total, nil
}

// procStat returns a process and the fields of its stat file from the third on.
func procStat(path string) (pid int, fields []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, err
	}
	id, _, _ := strings.Cut(string(text), " ")
	pid, err = strconv.Atoi(id)
	// The second field is the program's name, in brackets, with anything in it.
	fields = strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if err == nil && len(fields) < 15 {
		err = fmt.Errorf("%s has %d fields", path, len(fields))
	}
	return pid, fields, err
}

func ownTime(pid int) (time.Duration, error) {
	_, fields, err := procStat(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
