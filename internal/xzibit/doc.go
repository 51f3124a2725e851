// Package xzibit keeps a user's keyring under a password, in the form that a
// server stores and hands to whoever asks (protocol.md section 8).
//
// It guarantees that what opens is whole, belongs to the address and password that
// it is opened with, and holds only key pairs whose halves agree; and that nobody's
// bytes make a reader spend more than [MaxSize] bytes of buffer and the memory and
// time that [Params] allows. It writes versions 2 and 3 and reads all three. Version 3
// needs, beside the password, what the server's oblivious function (package oprf) makes
// of it: so nobody can try passwords on a copy of it alone.
//
// All integers are unsigned and big-endian.
//
// # The outer layout, every version
//
//	offset  size  field
//	     0     4  version
//	     4    32  salt
//	    36     8  length n of all that follows, at most 65536
//	    44     n  by version
//
// # Version 1 (read, never written)
//
//	offset  size  field
//	     0     4  version = 1
//	     4    32  salt
//	    36     8  112
//	    44    96  ciphertext
//	   140    16  Poly1305 tag
//
// The key is scrypt of the password's bytes and the salt: N=16384, r=8, p=1, 32
// bytes. The cipher is the original ChaCha20-Poly1305, with a nonce of 8 bytes, the
// salt's first; the tag is over the eight zero bytes of an empty associated data's
// length, the ciphertext, and the ciphertext's length as u64 in little-endian,
// nothing padded. The plaintext is a public key (32) and a secret key (64: seed and
// public key).
//
// # Version 2
//
//	offset  size  field
//	     0     4  version = 2
//	     4    32  salt, fresh at every writing
//	    36     8  n, 160 to 65536
//	    44     4  Argon2id passes, 1 to 16
//	    48     4  Argon2id memory in KiB, 8 per thread to 1048576
//	    52     4  Argon2id threads, 1 to 16
//	    56    24  nonce, fresh at every writing
//	    80  n-52  ciphertext of the keyring
//	 28+n     16  Poly1305 tag
//
// Passes times memory is at most 4194304 KiB. The key is Argon2id (version 0x13, 32
// bytes, no secret, no associated data) of the password in Unicode NFC and the salt.
// The cipher is XChaCha20-Poly1305; its associated data is
//
//	offset  size  field
//	     0    80  the xzibit's bytes 0 to 79
//	    80     4  length a of the address, 1 to 511
//	    84     a  the address, account@domain, in its normal form
//
// # Version 3
//
// As version 2, with 3 for the version, but that Argon2id takes for the password
//
//	offset  size  field
//	     0     4  length p of the password in NFC, 1 to 65535
//	     4     p  the password in NFC
//	   4+p    64  the output of the server's function for those p bytes
//
// # The keyring, plaintext of versions 2 and 3
//
//	offset  size  field
//	     0    32  the home server's public key, zeros when unknown
//	    32     4  count k of key pairs, 1 or more
//	    36   72k  the key pairs, the newest first
//	36+72k        extensions, to the end
//
// A key pair:
//
//	offset  size  field
//	     0     8  when it was made, Unix seconds, at most 253402300799; 0 when unknown
//	     8    64  secret key: seed (32), public key (32)
//
// An extension:
//
//	offset  size  field
//	     0     4  type, larger than that of the extension before it
//	     4     4  length e
//	     8     e  data
//
// Type 1 is the public key that recovery copies are sealed to: 32 bytes, a usable
// Ed25519 key. Type 2 is the proof that belongs to it: the SHA-256 of
//
//	offset  size  field
//	     0    22  "CMTP-1 recovery proof\0"
//	    22    32  the seed of the recovery key
//
// One never is without the other. A writer keeps the extensions that it does not know, byte for byte, so
// that an older client does not destroy what a newer one keeps.
//
// # The recovery copy
//
// A second copy of the keyring, which the user's recovery key (package recovery) opens
// without password and server. Its outer layout is the xzibit's:
//
//	offset  size  field
//	     0     4  version = 1
//	     4    32  the public recovery key
//	    36     8  length n of all that follows, 241 to 65536
//	    44     n  a sealed box (package crypt) to that key
//
// In the box:
//
//	offset  size  field
//	     0     4  length a of the address, 1 to 511
//	     4     a  the address, account@domain, in its normal form
//	   4+a        the keyring, whose extension 1 is the key in front
//
// Anybody can seal a box to a public key; only who has the keyring, or the secret
// recovery key, knows the proof in it.
package xzibit
