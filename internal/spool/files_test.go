package spool_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"cmtpd/internal/durable"
)

// Helpers that reach below the spool, on any file system.

func segments(tb testing.TB, fsys durable.FS, dir string) []string {
	tb.Helper()
	names, err := fsys.ReadDir(filepath.Join(dir, "log"))
	if err != nil || len(names) == 0 {
		tb.Fatal(names, err)
	}
	for i := range names {
		names[i] = filepath.Join(dir, "log", names[i])
	}
	return names
}

// newest returns the path of the newest segment of the spool in /spool.
func newest(tb testing.TB, fsys durable.FS) string {
	tb.Helper()
	s := segments(tb, fsys, "/spool")
	return s[len(s)-1]
}

func contents(tb testing.TB, fsys durable.FS, path string) []byte {
	tb.Helper()
	b, err := durable.ReadFile(fsys, path, 1<<30)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func size(tb testing.TB, fsys durable.FS, path string) int64 {
	return int64(len(contents(tb, fsys, path)))
}

func replace(tb testing.TB, fsys durable.FS, path string, data []byte) {
	tb.Helper()
	if err := durable.WriteFile(fsys, path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func appendTo(tb testing.TB, fsys durable.FS, path string, data []byte) {
	tb.Helper()
	replace(tb, fsys, path, append(bytes.Clone(contents(tb, fsys, path)), data...))
}

func leave(tb testing.TB, fsys durable.FS, paths ...string) {
	tb.Helper()
	for _, p := range paths {
		replace(tb, fsys, p, []byte("leftover"))
	}
}

// mentions says whether a segment's generation stands behind an offset.
func mentions(tb testing.TB, fsys durable.FS, path string, offset int64) bool {
	tb.Helper()
	b := contents(tb, fsys, path)
	return bytes.Contains(b[offset:], b[24:32])
}
