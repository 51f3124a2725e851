package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"sort"

	"cmtpd/internal/durable"
)

// errIndex: an index file is not as it was written. It is derived, so nothing is lost.
var errIndex = errors.New("the index file is damaged")

// The tables of an index file, in their order.
const (
	byNumber = iota
	byMailbox
	byContent
	removalRows
	goneRows
	fileRows
	markRows
	changeRows
	tableCount
)

// Sizes in bytes of docs/spool.md, Index.
const (
	indexHeader = 384
	blockRows   = 128
	filterBlock = 64
	filterRows  = 32                   // that share a block of the filter
	smallestRow = frameSize + markHead // bytes of the shortest record that a row is of
)

var indexMagic = [8]byte{'C', 'M', 'T', 'P', 'I', 'D', 'X', '2'}

// rowWidths are the lengths of the tables' rows, firstWidths what the directory has of
// the first in each block.
var (
	rowWidths   = [tableCount]int{32, 24, 24, 16, 8, 24, 28, 32}
	firstWidths = [tableCount]int{byNumber: 8, byMailbox: 24, byContent: 24, markRows: 8, changeRows: 24}
)

// section is one table in the file.
type section struct {
	width  int
	count  int64
	offset int64
	first  []byte // of each block, its first row or the beginning of it
	key    int    // length of each in first
}

func blocks(rows int64) int64 { return (rows + blockRows - 1) / blockRows }

func (s *section) size() int64 { return s.count*int64(s.width) + 4*blocks(s.count) }

// block reads one block.
func (s *section) block(f durable.File, i int64) ([]byte, error) {
	rows := min(s.count-i*blockRows, blockRows)
	b := make([]byte, rows*int64(s.width)+4)
	if n, err := f.ReadAt(b, s.offset+i*int64(blockRows*s.width+4)); n < len(b) {
		if err == io.EOF {
			err = errIndex
		}
		return nil, err
	}
	n := len(b) - 4
	if crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, errIndex
	}
	return b[:n], nil
}

// each calls do with the rows from key on, in their order, until it returns false.
func (s *section) each(f durable.File, key []byte, do func(row []byte) bool) error {
	n := int(blocks(s.count))
	i := 0
	if s.key > 0 {
		// The last block that begins before key, or at it.
		i = max(sort.Search(n, func(i int) bool { return bytes.Compare(s.first[i*s.key:(i+1)*s.key], key) > 0 })-1, 0)
	}
	for ; i < n; i++ {
		b, err := s.block(f, int64(i))
		if err != nil {
			return err
		}
		rows := len(b) / s.width
		at := sort.Search(rows, func(r int) bool { return bytes.Compare(b[r*s.width:(r+1)*s.width], key) >= 0 })
		if s.key == 0 {
			at = 0
		}
		for ; at < rows; at++ {
			if !do(b[at*s.width : (at+1)*s.width]) {
				return nil
			}
		}
	}
	return nil
}

// eachDown does the rows before key, in the opposite order, until do returns false.
// The directory has all of the table's rows that begin a block.
func (s *section) eachDown(f durable.File, key []byte, do func(row []byte) bool) error {
	first := func(i int) []byte { return s.first[i*s.key : (i+1)*s.key] }
	i := sort.Search(int(blocks(s.count)), func(i int) bool { return bytes.Compare(first(i), key) >= 0 })
	for i--; i >= 0; i-- {
		b, err := s.block(f, int64(i))
		if err != nil {
			return err
		}
		at := sort.Search(len(b)/s.width, func(r int) bool { return bytes.Compare(b[r*s.width:(r+1)*s.width], key) >= 0 })
		for at--; at >= 0; at-- {
			if !do(b[at*s.width : (at+1)*s.width]) {
				return nil
			}
		}
	}
	return nil
}

// indexFile is the table of a segment whose rows are on disk. In memory it has
// about two bytes for each message and mark.
type indexFile struct {
	fs       durable.FS
	path     string
	sections [tableCount]section
	filter   []byte // of content keys
	// markFilter is that of the numbers of marked messages.
	markFilter []byte
	bytes      int64  // sum of the messages' lengths
	end        int64  // of the segment
	before     uint64 // number of the last commit before it
	after      state
}

func indexName(h *header) string { return fmt.Sprintf("%016x-%016x.idx", h.sequence, h.generation) }

// openIndex opens the index file of a segment whose header and length are known. It returns an
// error where there is none that fits. A row is of a record, so the segment bounds how much memory
// the directory can take, whatever the file says.
func openIndex(fsys durable.FS, dir string, seg *segment) (*indexFile, error) {
	x := &indexFile{fs: fsys, path: filepath.Join(dir, "index", indexName(&seg.header))}
	f, err := fsys.Open(x.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, indexHeader)
	if n, err := f.ReadAt(b, 0); n < len(b) && err != io.EOF {
		return nil, err
	}
	if crc32.Checksum(b[:380], castagnoli) != binary.BigEndian.Uint32(b[380:]) || [8]byte(b) != indexMagic {
		return nil, errIndex
	}
	directory, err := x.parseHeader(b, seg, size)
	if err != nil {
		return nil, err
	}
	d := make([]byte, directory)
	if n, err := f.ReadAt(d, indexHeader); n < len(d) && err != io.EOF {
		return nil, err
	}
	if crc32.Checksum(d, castagnoli) != binary.BigEndian.Uint32(b[376:]) {
		return nil, errIndex
	}
	for i := range x.sections {
		s := &x.sections[i]
		n := blocks(s.count) * int64(s.key)
		s.first, d = d[:n], d[n:]
	}
	n := filterBlocks(x.sections[byContent].count) * filterBlock
	x.filter, x.markFilter = d[:n:n], d[n:]
	return x, nil
}

// parseHeader reads what comes before the directory, and returns the directory's length.
func (x *indexFile) parseHeader(b []byte, seg *segment, size int64) (directory int64, err error) {
	be := binary.BigEndian
	x.end, x.before = int64(be.Uint64(b[32:])), seg.before.Number
	x.after.head = Head{Number: be.Uint64(b[40:]), Hash: [32]byte(b[48:80])}
	x.after.next = ID(be.Uint64(b[80:]))
	if x.after.keys, err = parseKeys(b[88:304]); err != nil {
		return 0, err
	}
	x.bytes = int64(be.Uint64(b[304:]))
	if be.Uint64(b[8:]) != seg.sequence || be.Uint64(b[16:]) != seg.last || be.Uint64(b[24:]) != seg.generation ||
		x.end < headerSize || x.end > seg.size || x.bytes < 0 || x.after.head.Number > maxCommit || x.after.next > maxNumber {
		return 0, errIndex
	}
	var counts [tableCount]int64
	for i := range counts {
		count := be.Uint64(b[312+8*i:])
		if count > uint64(x.end)/smallestRow {
			return 0, errIndex
		}
		counts[i] = int64(count)
	}
	directory, end := x.lay(counts)
	if end != size {
		return 0, errIndex
	}
	return directory, nil
}

// lay says where tables of so many rows are, how long the directory before them is, and
// where the file ends.
func (x *indexFile) lay(counts [tableCount]int64) (directory, end int64) {
	for i := range x.sections {
		x.sections[i] = section{width: rowWidths[i], key: firstWidths[i], count: counts[i]}
		directory += blocks(counts[i]) * int64(firstWidths[i])
	}
	directory += (filterBlocks(counts[byContent]) + filterBlocks(counts[markRows])) * filterBlock
	end = indexHeader + directory
	for i := range x.sections {
		x.sections[i].offset = end
		end += x.sections[i].size()
	}
	return directory, end
}

func filterBlocks(rows int64) int64 { return (rows + filterRows - 1) / filterRows }

// makeFilter makes the filter of a table's rows, which are w bytes long.
func makeFilter(rows []byte, w int, key func(row []byte) contentKey) []byte {
	filter := make([]byte, filterBlocks(int64(len(rows)/w))*filterBlock)
	for ; len(rows) > 0; rows = rows[w:] {
		block, bits := filterPlace(filter, key(rows))
		for range 7 {
			block[bits>>55>>3] |= 1 << (bits >> 55 & 7)
			bits <<= 9
		}
	}
	return filter
}

func filterPlace(filter []byte, k contentKey) (block []byte, bits uint64) {
	at := binary.BigEndian.Uint64(k[:]) % uint64(len(filter)/filterBlock) * filterBlock
	return filter[at : at+filterBlock : at+filterBlock], binary.BigEndian.Uint64(k[8:])
}

// passes says whether the filter lets a key through.
func passes(filter []byte, k contentKey) bool {
	if len(filter) == 0 {
		return false
	}
	block, bits := filterPlace(filter, k)
	for range 7 {
		if block[bits>>55>>3]>>(bits>>55&7)&1 == 0 {
			return false
		}
		bits <<= 9
	}
	return true
}

// each opens the file and goes through a table.
func (x *indexFile) each(table int, key []byte, do func(row []byte) bool) error {
	if x.sections[table].count == 0 {
		return nil
	}
	f, err := x.fs.Open(x.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.sections[table].each(f, key, do)
}

// eachDown opens the file and goes through a table backwards.
func (x *indexFile) eachDown(table int, key []byte, do func(row []byte) bool) error {
	f, err := x.fs.Open(x.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return x.sections[table].eachDown(f, key, do)
}

func (x *indexFile) get(id ID) (row, bool, error) { return x.near(id, new(numbers)) }

// numbers is what was read last of a table of messages by number: a block, so that who looks one up after
// another opens the file once for each block of them.
type numbers struct {
	of   *indexFile
	at   int // of the table's blocks
	rows []byte
}

// near is get for who keeps in last what it has read.
func (x *indexFile) near(id ID, last *numbers) (r row, ok bool, err error) {
	be := binary.BigEndian
	s := &x.sections[byNumber]
	at := sort.Search(int(blocks(s.count)), func(i int) bool { return ID(be.Uint64(s.first[i*s.key:])) > id }) - 1
	if at < 0 {
		return r, false, nil
	}
	if last.of != x || last.at != at {
		rows, err := x.block(byNumber, at)
		if err != nil {
			return r, false, err
		}
		*last = numbers{x, at, rows}
	}
	n := len(last.rows) / s.width
	i := sort.Search(n, func(i int) bool { return ID(be.Uint64(last.rows[i*s.width:])) >= id })
	if i == n {
		return r, false, nil
	}
	b := last.rows[i*s.width : (i+1)*s.width]
	if ID(be.Uint64(b)) != id {
		return r, false, nil
	}
	r = row{id: id, change: be.Uint64(b[8:]), offset: int64(be.Uint64(b[16:]))}
	r.size, r.large = unpackSize(be.Uint64(b[24:]))
	if r.offset < headerSize || r.offset >= x.end {
		return r, false, errIndex
	}
	return r, true, nil
}

// block opens the file and reads one block of a table.
func (x *indexFile) block(table, i int) ([]byte, error) {
	f, err := x.fs.Open(x.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return x.sections[table].block(f, int64(i))
}

// highest returns the highest number of a message whose data is there.
func (x *indexFile) highest() (id ID, err error) {
	s := &x.sections[byNumber]
	if s.count == 0 {
		return 0, nil
	}
	err = x.each(byNumber, s.first[len(s.first)-s.key:], func(b []byte) bool {
		id = ID(binary.BigEndian.Uint64(b))
		return true
	})
	return id, err
}

func (x *indexFile) find(k contentKey) (id ID, err error) {
	if !passes(x.filter, k) {
		return 0, nil
	}
	err = x.each(byContent, k[:], func(b []byte) bool {
		if contentKey(b) == k {
			id = ID(binary.BigEndian.Uint64(b[16:]))
		}
		return false
	})
	return id, err
}

func (x *indexFile) box(m MailboxID, after ID, n int) (ids []ID, err error) {
	err = x.each(byMailbox, binary.BigEndian.AppendUint64(m[:], uint64(after)+1), func(b []byte) bool {
		if MailboxID(b) != m {
			return false
		}
		ids = append(ids, ID(binary.BigEndian.Uint64(b[16:])))
		return len(ids) < n
	})
	return ids, err
}

func (x *indexFile) boxDown(m MailboxID, before ID, n int) (ids []ID, err error) {
	err = x.eachDown(byMailbox, binary.BigEndian.AppendUint64(m[:], uint64(before)), func(b []byte) bool {
		if MailboxID(b) != m {
			return false
		}
		ids = append(ids, ID(binary.BigEndian.Uint64(b[16:])))
		return len(ids) < n
	})
	return ids, err
}

// sizes reads the lengths in one pass from the mailbox's first message to its last.
func (x *indexFile) sizes(m MailboxID, tell func(ID, int64)) error {
	ids, err := x.box(m, 0, int(x.sections[byMailbox].count))
	if err != nil || len(ids) == 0 {
		return err
	}
	be := binary.BigEndian
	err = x.each(byNumber, be.AppendUint64(nil, uint64(ids[0])), func(b []byte) bool {
		if id := ID(be.Uint64(b)); id == ids[0] {
			size, _ := unpackSize(be.Uint64(b[24:]))
			tell(id, size)
			ids = ids[1:]
		}
		return len(ids) > 0
	})
	if err == nil && len(ids) > 0 {
		err = errIndex // a message of the one table is not in the other
	}
	return err
}

func (x *indexFile) ids(after ID, n int) (ids []ID, err error) {
	ordered := true
	err = x.each(byNumber, binary.BigEndian.AppendUint64(nil, uint64(after)+1), func(b []byte) bool {
		id := ID(binary.BigEndian.Uint64(b))
		ordered, after = ordered && id > after, id
		ids = append(ids, id)
		return len(ids) < n
	})
	if err == nil && !ordered {
		return nil, errIndex // whoever goes on after the last would turn in a circle
	}
	return ids, err
}

func (x *indexFile) removals() (rows []removedRow, err error) {
	err = x.each(removalRows, nil, func(b []byte) bool {
		r := removedRow{id: ID(binary.BigEndian.Uint64(b))}
		r.size, r.large = unpackSize(binary.BigEndian.Uint64(b[8:]))
		rows = append(rows, r)
		return true
	})
	return rows, err
}

func (x *indexFile) gone() (ids []ID, err error) {
	err = x.each(goneRows, nil, func(b []byte) bool {
		ids = append(ids, ID(binary.BigEndian.Uint64(b)))
		return true
	})
	return ids, err
}

func (x *indexFile) files() (rows []fileRow, err error) {
	err = x.each(fileRows, nil, func(b []byte) bool {
		rows = append(rows, fileRow{[16]byte(b), ID(binary.BigEndian.Uint64(b[16:]))})
		return true
	})
	return rows, err
}
