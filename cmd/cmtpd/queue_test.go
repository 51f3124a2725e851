package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
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
	id, err := enqueueIn(ts.MkAbs("data"), args[0], length)
	ts.Check(err)
	ts.Setenv("ID", fmt.Sprint(id))
}

// enqueueIn stores a message in a data directory, which no daemon has.
func enqueueIn(data, domain string, length int) (id spool.ID, err error) {
	identity, _, err := keyfile.LoadOrCreate(filepath.Join(data, "server.key"))
	if err != nil {
		return 0, err
	}
	key, _, err := keyfile.LoadOrCreate(filepath.Join(data, "spool.key"))
	if err != nil {
		return 0, err
	}
	s, err := spool.Open(filepath.Join(data, "spool"), spool.Options{FS: durable.OS, Key: key, Identity: identity})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(length), DestinationAccount: "bob", DestinationDomain: domain,
		SourceAccount: "alice", SourceDomain: "example.org"}
	message := append(append(h.Append(nil), 0), bytes.Repeat([]byte{1}, length)...)
	w := s.NewWriter()
	if _, err := w.Write(message); err != nil {
		return 0, err
	}
	stored, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID(account.Outgoing), Digest: sha256.Sum256(message)})
	return stored.ID, err
}
