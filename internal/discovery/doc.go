// Package discovery gets from a domain to the servers that take its mail and to
// the keys that it publishes for them, and says how far each can be trusted
// (docs/protocol.md section 23).
//
// It guarantees that a failure of DNS is never taken for absence: what is not
// known for now is a temporary error, and every other error is what DNS says.
// Nothing counts as authenticated unless a resolver that the operator declared
// trusted vouches for it. What strangers write into DNS is bounded before it is
// kept, in memory, in number and in how long it is waited for.
//
// All of it is safe for concurrent use. There are no files but resolv.conf.
package discovery
