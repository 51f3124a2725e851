// Package cache keeps a user's own copy of a mailbox on their machine: what the server
// lists, what was opened of it, an index of its words, what the user changed without a
// connection, drafts, and letters on their way out.
//
// It guarantees that nothing that it is given reaches the disk but encrypted under a key
// that only the account's keyring leads to; that what a method has reported as kept is
// there after a crash or a power cut, as far as the disk keeps its promises; that each
// answer of the server is in the database before the number is that says so, both in one
// transaction, so that a sync may break off anywhere and goes on from there; that a message
// is fetched once, whatever number it has in which epoch; that any number of processes may
// use one copy at the same time; and that no query of a user's is an error of SQL's.
// Memory does not grow with the mailbox.
//
// # Files
//
// A copy is a directory, mode 0700, with the files of one SQLite database, mode 0600:
//
//	mail.db       the database; mail.db-wal and mail.db-shm beside it while it is open
//	sync.lock     locked by who syncs
//	outbox.lock   locked by who chooses a letter to send, until it is locked
//	letter-ID.lock  locked by who sends that letter; there until it is removed
//	damaged       there once damage was met: the next Open begins anew
//
// and beside the directory, with .lock behind its name, what Open locks for a moment. A
// directory that cannot be used is moved to its name with the time behind it, never removed.
//
// # Encryption
//
// Each block of 4096 bytes is encrypted with Adiantum (XChaCha12, AES, NH, Poly1305), with its
// place for the tweak, under HKDF-SHA-256 of the seed of a key of the account, without a salt
// and with the info "shorebird cache 1". Of several keys the oldest is taken for a new
// copy, and any that fits opens one, so that a rotated key changes nothing. Blocks are not authenticated: what is read of
// letters, drafts and sealed copies carries a hash inside, and the rest is as sound as
// SQLite finds it.
package cache
