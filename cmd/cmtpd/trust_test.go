package main_test

import (
	"bytes"
	"context"
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
	domain, err := address.ParseDomain(args[0])
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	var shown crypt.PublicKey
	for i := n + 2; i >= n; i-- {
		key, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{byte(i)}, crypt.SeedSize))
		ts.Check(err)
		shown = key.Public()
		ts.Setenv("KEY"+strconv.Itoa(i), trust.Public{PublicKey: shown}.Base64())
		ts.Setenv("PRINT"+strconv.Itoa(i), shown.String())
	}
	store, err := trust.Open(ts.MkAbs("data/trust"), trust.Options{FS: durable.OS})
	ts.Check(err)
	_, err = store.Judge(context.Background(), domain, trust.Sighting{Shown: shown, CMTP1: true, Record: trust.Record{Answer: trust.Absent}})
	ts.Check(err)
	e, err := store.Show(domain)
	ts.Check(err)
	ts.Setenv("FILE", strings.TrimPrefix(e.File, ts.MkAbs(".")+"/"))
}
