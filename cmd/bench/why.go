package main

// missed says why targets are missed, where that is known. It stands at the end
// of the document; what is measured says which of it still holds.
const missed = `
## Where a target is missed

- **Passthrough of short sessions.** Per new session cmtpd spends about 265 µs of processor time and haproxy 210 (counted
  once, on a busy machine). It greets at once and reads the first command before it may choose a backend, so a session
  begins on a goroutine of its own and is then handed to the loop that moves its bytes; haproxy connects to its backend
  at once and never changes threads. Kept sessions pay the rest in Go's poller, which the loop waits in. One loop for
  each CPU, a thread that blocks in epoll, and lingering before parking were tried and cost more.
- **Durable acceptance of 4 KiB at 64 connections.** Processor time bounds it: the server's and the load's together, as
  above, are three quarters of what both CPUs have, and the kernel's own threads take some more. Of the server's,
  counted by perf on a busy machine, about a third is the kernel's network and scheduler, a seventh the two SHA-256 of
  each message (its own, and the body's within the core digest), a sixth writing and flushing the log, a twelfth Go's
  monitor thread, which wakes every 20 µs while a flush blocks. The bare writer has none of these but the flush. One
  SHA-256 instead of two, and a batch that is prepared while the one before is flushed, are what could still be saved;
  writing past the page cache was tried and saved nothing. Postfix' rate differs from one machine to another more than
  cmtpd's does.
- **One connection that waits for each answer.** Two thirds of the time are the flush of one block that was written ahead. The rest is mostly the
  way from the session to the committer and back, each of which has to be woken.
- **1 MiB messages.** The server needs 2.3 ms of processor time for one, of which nearly half are the two SHA-256, and
  its sender waits for three flushes in turn: of the file, of its name, and of the log.
- **KEYREQUEST for a user of another domain, 16 in flight.** A request takes the daemon a microsecond, the bare server less
  than half of one. perf shows no part of it above a twelfth: the largest are the kernel's switching of threads (7.5 %)
  and reading the clock (6 %).
- **From one server's queue into another's spool.** Processor time bounds it, of sender and receiver together on the same
  two CPUs. A message costs four Ed25519 operations, a signature (16 µs) and its verification (39 µs) for the origin and
  for the receipt: 110 µs, where half of the load's rate over 8 connections would leave both daemons some 135 for
  everything. The load costs next to nothing, proves no origin and checks no receipt, and became ten times faster when a
  connection's messages began to share flushes. Verifying 32 signatures at once would save 16 µs of each verification
  (counted with a library that does it). Of the rest, the sender opens the log's segment for each message, and the receiver sets a
  deadline for every read. Postfix computes no signature and encrypts nothing here.
- **Fetching many messages of 2 KiB.** The bare server needs less than 2 µs for one, of which SHA-256 alone would be most. Of what the daemon
  needs, counted by perf on a busy machine, 45 of 100 parts are finding and opening it: a segment's index and the segment are opened and closed
  for each message, 17 system calls with the three that read. 8 parts are SHA-256, 19 encryption and sending. Files that stay open would
  save most of the first, and still leave it short of the target.
- **Fetching one large message.** Two fifths of the daemon's time are SHA-256, a seventh is copying out of the page cache, a ninth encryption (counted by
  perf on a busy machine, ranges included); the bare server has only the last. One goroutine does all of it in turn: to verify the next piece
  while one is sent would take less time where a processor is idle, and no less of that.
`
