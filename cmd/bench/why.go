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
- **Durable acceptance of 4 KiB at 64 connections.** The bare writer has no network: one request and reply over loopback
  alone caps this machine at what KEYREQUEST shows with one in flight, below the target, before anything is stored. Of
  the rest, two SHA-256 passes over each message (the core digest and the spool's own) and a file that still grows with
  every flush cost most; segments whose blocks are written beforehand are the next step of the spool.
- **One connection, and 1 MiB messages.** Each waits for a flush of a file that grew, which writes the file system's
  journal too; the same step is meant for it. A large message is one goroutine that reads, hashes twice and writes in turn.
`
