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
- **Served in a siege, rushing, where the kernel drops nothing for us.** Who does not wait for the refusal comes 37,000 times a second. Each costs the daemon an accept
  and a close, and what is left of the second CPU is for it and for who visits together. Where the kernel drops its packets, as with CAP_NET_ADMIN on the kernel above, nobody
  notices. To wait for such connections in poll(2), and at a second descriptor of the listener that package net does not know of, were tried, and came to the same or more.
- **Fetching many messages of 2 KiB, on loopback.** Processor time bounds it, of daemon and client on the same two CPUs; a line of a gigabit a second is slower than
  that, and there the target is met. Counted on a busy machine, a message costs the bare
  server 1.0 µs and its client 1.2, the daemon 3.7 and its client 1.5 (7.8 and 2.9 before segments stayed open and were read ahead). Two CPUs that are
  never idle would do the latter in 2.6 µs. Of the daemon's, counted by perf, 33 of 100 parts are SHA-256, 20 encryption and sending, 12 copying out of the
  page cache, and 5 finding the message in the index; there is a fifth of a system call for each. SHA-256 and copying, without which nothing is verified, take 1.7 µs.
- **Fetching one large message, on loopback.** A gigabyte costs the daemon 1.1 s of processor time (1.2 before a piece that is handed from who reads to who encrypts had
  256 KiB), of which SHA-256 is half a second, and copying out of the page cache 0.15; the bare server 0.35, and either's client 0.5 (counted on a busy machine). SHA-256 runs
  beside encryption and sending, but two CPUs that are never idle still need 0.8 s, 0.7 of the bare server's rate on an idle machine. More pieces of 64 KiB ahead
  were tried and gained nothing, nor did pieces of 1 MiB over those of 256 KiB.
- **Fetching in ranges.** The first one waits until all of the message was read once, while the line has nothing to carry: half a second a gigabyte for SHA-256 alone, and
  several times that on a busy machine. Whoever asks for a message as a whole, as internal/cache does, has it sent while it is verified.
`
