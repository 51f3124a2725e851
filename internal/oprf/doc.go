// Package oprf lets a server help a client with a password that it never sees: an
// oblivious pseudorandom function, RFC 9497 in its base mode with the suite
// ristretto255-SHA512 (protocol.md section 8.3).
//
// The client blinds an input, the server evaluates the blinded element under its
// key, and the client takes the blind off again. The server learns nothing of
// input and output; without the server nobody learns the output, however cheaply
// inputs can be guessed.
//
// The package guarantees that an element is taken in its one canonical encoding
// and is never the identity, on either side; that input and output agree with the
// RFC's test vectors; and that keys and requests never print themselves. The base
// mode proves nothing about the key that a server used: with another one the
// client gets another output, and what it was to open does not.
package oprf
