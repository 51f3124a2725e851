package crypt

import (
	"encoding/binary"
	"fmt"

	"cmtpd/internal/address"
)

const receiptLabel = "CMTP-1 receipt\x00"

// MaxReceipt is the longest receipt in bytes, its signature included.
const MaxReceipt = len(receiptLabel) + 32 + maxName + 8 + 8 + 32 + SignatureSize

// A Receipt says that a server has a message for good (docs/protocol.md section 17.5).
type Receipt struct {
	Digest      [32]byte // the message's core digest
	Destination address.Address
	When        UnixTime
	Commit      uint64 // the number of a commit of the spool that includes the message
	Hash        [32]byte
}

// Append appends the statement's one encoding, without the signature.
func (r *Receipt) Append(dst []byte) []byte {
	dst = append(append(dst, receiptLabel...), r.Digest[:]...)
	dst = appendTime(appendName(dst, r.Destination), r.When)
	return append(binary.BigEndian.AppendUint64(dst, r.Commit), r.Hash[:]...)
}

// AppendSigned appends the receipt with the server's signature.
func (r *Receipt) AppendSigned(dst []byte, server *PrivateKey) []byte {
	start := len(dst)
	dst = r.Append(dst)
	sig := server.Sign(dst[start:])
	return append(dst, sig[:]...)
}

// OpenReceipt returns the receipt in b, the payload of a reply. It wraps ErrUnsigned
// unless the server has signed it.
func OpenReceipt(b []byte, server PublicKey) (Receipt, error) {
	d := decoder{rest: b}
	d.label(receiptLabel)
	r := Receipt{Digest: d.bytes32(), Destination: d.name(), When: d.time(), Commit: d.uint64(), Hash: d.bytes32()}
	sig := d.signature()
	if err := d.end(); err != nil {
		return Receipt{}, err
	}
	if !Verify(server, b[:len(b)-SignatureSize], sig) {
		return Receipt{}, fmt.Errorf("a receipt: %w: the server", ErrUnsigned)
	}
	return r, nil
}
