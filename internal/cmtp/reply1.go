package cmtp

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// replyHead is the length in bytes of a status and a payload's length.
const replyHead = 2 + 8

// AppendReply appends a reply of CMTP 1 (docs/protocol.md section 16.2) to a command
// that was done, as status must say.
func AppendReply(dst []byte, status Status, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(status))
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(payload)))
	return append(dst, payload...)
}

// AppendFailure appends a reply that says why a command was not done, as status must
// say. A reason that is longer than MaxReason is cut between two characters, and
// loses what could not stand in it.
func AppendFailure(dst []byte, status Status, reason string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(status))
	dst = binary.BigEndian.AppendUint64(dst, 0)
	begin := len(dst)
	dst = appendReason(dst, reason)
	binary.BigEndian.PutUint64(dst[begin-8:], uint64(len(dst)-begin))
	return dst
}

// ReadReply reads a reply of CMTP 1, and not a byte behind it. limit is the longest
// payload, in bytes, that the caller is ready for.
//
// Where the command was not done the error is a *StatusError, and the stream is in
// step. It is not after ErrTooLarge, a success with a longer payload, and ErrReply;
// neither has read or reserved anything of the payload but a reason that breaks the
// rules.
func ReadReply(r io.Reader, limit uint64) (Status, []byte, error) {
	status, n, err := ReadReplyHead(r, limit)
	if err != nil {
		return status, nil, err
	}
	payload, err := readGrowing(r, n)
	if err != nil {
		return 0, nil, fmt.Errorf("reading a reply's payload: %w", err)
	}
	return status, payload, nil
}

// ReadReplyHead is ReadReply for a payload that is too long for memory: after a success its
// n bytes follow in r.
func ReadReplyHead(r io.Reader, limit uint64) (status Status, n uint64, err error) {
	var head [replyHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, fmt.Errorf("reading a reply: %w", cut(err))
	}
	status, n = Status(binary.BigEndian.Uint16(head[:])), binary.BigEndian.Uint64(head[2:])
	switch {
	case !status.valid():
		return 0, 0, fmt.Errorf("%w: its status is %d", ErrReply, uint16(status))
	case !status.Done() && n > MaxReason:
		return 0, 0, fmt.Errorf("%w: a reason of %d bytes, at most %d are allowed", ErrReply, n, MaxReason)
	case status.Done() && n > limit:
		return 0, 0, fmt.Errorf("%w: a reply with %d bytes, at most %d are expected", ErrTooLarge, n, limit)
	case status.Done():
		return status, n, nil
	}
	reason, err := readGrowing(r, n)
	if err != nil {
		return 0, 0, fmt.Errorf("reading a reply's payload: %w", err)
	}
	if !isReason(reason) {
		return 0, 0, fmt.Errorf("%w: its reason is not UTF-8 without controls", ErrReply)
	}
	return status, 0, &StatusError{Status: status, Reason: string(reason)}
}

// AppendReplyHead appends what stands before the n bytes of a success's payload.
func AppendReplyHead(dst []byte, s Status, n uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(dst, uint16(s)), n)
}

// readStep is the most bytes that are reserved before any has come.
const readStep = 4 << 10

// readGrowing reads n bytes. Memory grows with what has come, so that who announces
// much and sends nothing costs little.
func readGrowing(r io.Reader, n uint64) ([]byte, error) {
	var b []byte
	for have := uint64(0); have < n; have = uint64(len(b)) {
		more := int(min(n-have, max(have, readStep)))
		b = slices.Grow(b, more)[:len(b)+more]
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, cut(err)
		}
	}
	return b, nil
}
