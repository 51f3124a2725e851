package main_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

// meet judges what a server of a domain shows: the key that grows from bytes of this number. $KEY<n> and
// $PRINT<n> are it from then on, for the two that follow too, and $FILE is the domain's file. No
// daemon may run.
func meet(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 2)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := n + 2; i >= n; i-- {
		key := numbered(i)
		ts.Setenv("KEY"+strconv.Itoa(i), trust.Public{PublicKey: key}.Base64())
		ts.Setenv("PRINT"+strconv.Itoa(i), key.String())
	}
	file, err := meetIn(ts.MkAbs("data"), args[0], n)
	ts.Check(err)
	ts.Setenv("FILE", strings.TrimPrefix(file, ts.MkAbs(".")+"/"))
}

// numbered is a server's key.
func numbered(n int) crypt.PublicKey {
	key, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{byte(n)}, crypt.SeedSize))
	if err != nil {
		panic(err) // the seed has its length
	}
	return key.Public()
}

// meetIn has a data directory, which no daemon has, judge a key, and returns the domain's file.
func meetIn(data, name string, n int) (string, error) {
	domain, err := address.ParseDomain(name)
	if err != nil {
		return "", err
	}
	store, err := trust.Open(filepath.Join(data, "trust"), trust.Options{FS: durable.OS})
	if err != nil {
		return "", err
	}
	if _, err := store.Judge(context.Background(), domain, trust.Sighting{Shown: numbered(n), CMTP1: true, Record: trust.Record{Answer: trust.Absent}}); err != nil {
		return "", err
	}
	e, err := store.Show(domain)
	return e.File, err
}
