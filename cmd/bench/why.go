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
  of 31 and 101 bytes is worth what KEYREQUEST shows with one in flight, and a message is 4 KiB more to send, to read,
  to digest twice and to copy, by a load that shares the two CPUs. What each part costs was not taken apart yet. The
  spool's file still grows with every flush; segments whose blocks are written beforehand are its next step.
- **One connection, and 1 MiB messages.** Each waits for a flush of a file that grew, which involves the file system's
  journal. A large message is one goroutine that reads, digests twice and writes in turn.
`
