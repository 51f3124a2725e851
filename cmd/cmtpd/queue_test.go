package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
)

// enqueue stores a message to bob of a domain as one that waits for its server, with a body of so many
// bytes; $ID is its number. No daemon may run.
func enqueue(ts *testscript.TestScript, neg bool, args []string) {
	argument(ts, neg, args, 2)
	length, err := strconv.Atoi(args[1])
	ts.Check(err)
	identity, _, err := keyfile.LoadOrCreate(ts.MkAbs("data/server.key"))
	ts.Check(err)
	key, _, err := keyfile.LoadOrCreate(ts.MkAbs("data/spool.key"))
	ts.Check(err)
	s, err := spool.Open(ts.MkAbs("data/spool"), spool.Options{FS: durable.OS, Key: key, Identity: identity})
	ts.Check(err)
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(length), DestinationAccount: "bob", DestinationDomain: args[0],
		SourceAccount: "alice", SourceDomain: "example.org"}
	data := append(append(h.Append(nil), 0), bytes.Repeat([]byte{1}, length)...)
	w := s.NewWriter()
	_, err = w.Write(data)
	ts.Check(err)
	stored, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID(account.Outgoing), Digest: sha256.Sum256(data)})
	ts.Check(err)
	ts.Check(s.Close())
	ts.Setenv("ID", fmt.Sprint(stored.ID))
}
