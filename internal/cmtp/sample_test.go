package cmtp_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"

	"cmtpd/internal/cmtp"
)

// A sample is a message in its parts, which the tests encode on their own.
type sample struct {
	system      uint32
	names       [4]string
	log         []byte
	body        []byte
	attachments [][]byte
}

var envelope = [4]string{"alice", "cref.example", "bob", "other.example"}

// sealed is a message of crypto system 1 in which no byte equals the next.
func sealed() sample {
	return sample{
		system: cmtp.SystemSealed,
		names:  envelope,
		log:    []byte("received\x00queued\x00"),
		body:   counted(61, 3), attachments: [][]byte{counted(48, 7), counted(90, 11)},
	}
}

// plain is a message of crypto system 0 with these attachments.
func plain(body string, attachments ...[]byte) sample {
	return sample{names: envelope, log: []byte{0}, body: []byte(body), attachments: attachments}
}

// counted returns n bytes that count in steps of step.
func counted(n int, step byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) * step
	}
	return b
}

// head encodes the integers and names that begin a message.
func head(system, attachments uint32, log, body uint64, names ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, system)
	b = binary.BigEndian.AppendUint32(b, attachments)
	b = binary.BigEndian.AppendUint64(b, log)
	b = binary.BigEndian.AppendUint64(b, body)
	for _, s := range names {
		b = append(append(b, s...), 0)
	}
	return b
}

func (s sample) head() []byte {
	return head(s.system, uint32(len(s.attachments)), uint64(len(s.log)), uint64(len(s.body)), s.names[:]...)
}

func (s sample) bytes() []byte {
	b := append(append(s.head(), s.log...), s.body...)
	for _, a := range s.attachments {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(a))), a...)
	}
	return b
}

// core is the core digest as protocol.md section 6.4 tells it.
func (s sample) core() [32]byte {
	body := sha256.Sum256(s.body)
	b := []byte("CMTP-1 core\x00")
	b = binary.BigEndian.AppendUint32(b, s.system)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.attachments)))
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.body)))
	for _, name := range s.names {
		b = append(append(b, name...), 0)
	}
	b = append(b, body[:]...)
	for _, a := range s.attachments {
		sum := sha256.Sum256(a)
		b = binary.BigEndian.AppendUint64(b, uint64(len(a)))
		b = append(b, sum[:]...)
	}
	return sha256.Sum256(b)
}

// parse takes a message apart by ParseLayout.
func parse(t testing.TB, message []byte) sample {
	t.Helper()
	r := bytes.NewReader(message)
	l, err := cmtp.ParseLayout(r, r.Size())
	if err != nil {
		t.Fatalf("ParseLayout: %v", err)
	}
	h := l.Header
	s := sample{
		system: h.System, log: l.Log, body: section(t, r, l.Body),
		names: [4]string{h.DestinationAccount, h.DestinationDomain, h.SourceAccount, h.SourceDomain},
	}
	if int(h.Attachments) != len(l.Attachments) {
		t.Fatalf("a header of %d attachments, a layout of %d", h.Attachments, len(l.Attachments))
	}
	for _, e := range l.Attachments {
		s.attachments = append(s.attachments, section(t, r, e))
	}
	return s
}

func section(t testing.TB, r io.ReaderAt, e cmtp.Extent) []byte {
	t.Helper()
	b, err := io.ReadAll(e.Section(r))
	if err != nil || int64(len(b)) != e.Length {
		t.Fatalf("a section of %d bytes holds %d, %v", e.Length, len(b), err)
	}
	return b
}

// A source makes any io.Reader a cmtp.Source and counts what is taken from it.
type source struct {
	io.Reader
	taken int
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.taken += n
	return n, err
}

func (s *source) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(s, b[:])
	return b[0], err
}

// segmentations are the ways in which a stream may come.
var segmentations = map[string]func(io.Reader) io.Reader{
	"Whole":   func(r io.Reader) io.Reader { return r },
	"OneByte": iotest.OneByteReader,
	"Half":    iotest.HalfReader,
	"DataErr": iotest.DataErrReader,
}

// read reads one message from src and returns what was yielded and its digest.
func read(src cmtp.Source, limit uint64) ([]byte, [32]byte, error) {
	m, err := cmtp.NewMessageReader(src, limit)
	if err != nil {
		return nil, [32]byte{}, err
	}
	got, err := io.ReadAll(m)
	if err != nil {
		return got, [32]byte{}, err
	}
	sum, err := m.Digest()
	return got, sum, err
}
