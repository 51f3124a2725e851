package mailbox_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// fetch fetches, with what a session remembers.
func (w *world) fetch(b *mailbox.Box, q cmtp.FetchQuery, known *mailbox.Reading) ([]byte, error) {
	body, err := b.Fetch(q, known)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var out bytes.Buffer
	n, err := body.WriteTo(&out)
	if n != int64(out.Len()) || err == nil && n != body.Size() {
		w.tb.Errorf("%d of %d bytes are written, %d are said to be: %v", out.Len(), body.Size(), n, err)
	}
	return out.Bytes(), err
}

// Lengths on both sides of what is read at once, and of what has a file of its own.
var lengths = []int{100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 200<<10 - 1, 200 << 10, 256 << 10, 300<<10 + 7, 768 << 10, 1<<20 + 7}

// Every range of every kind of message is what was asked for, up to the message's end.
func TestBox_Fetch(t *testing.T) {
	w := newWorld(t)
	for _, size := range lengths {
		data := message(size)
		n, end := w.put(alice, data, ""), uint64(size)
		known := &mailbox.Reading{}
		for _, r := range [][2]uint64{
			{0, end}, {0, math.MaxUint64}, {0, end - 1}, {1, end}, {0, 1}, {end - 1, 1}, {end - 1, 9}, {end, 0}, {end, 9}, {0, 0},
			{end / 2, end / 4}, {0, end},
		} {
			got, err := w.fetch(w.alice, cmtp.FetchQuery{Number: n, Offset: r[0], Length: r[1]}, known)
			want := data[r[0]:]
			want = want[:min(uint64(len(want)), r[1])]
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %d from %d: %d, %v", size, r[1], r[0], len(got), err)
			}
		}
		for _, offset := range []uint64{end + 1, math.MaxInt64, math.MaxUint64} {
			if _, err := w.fetch(w.alice, cmtp.FetchQuery{Number: n, Offset: offset, Length: 1}, known); !errors.Is(err, mailbox.ErrOffset) {
				t.Errorf("%d bytes, from %d: %v", size, offset, err)
			}
		}
	}
}

// A message of which a byte is another one, wherever, never leaves whole, nor a range of it.
func TestBox_Fetch_Damage(t *testing.T) {
	for _, size := range lengths {
		for _, at := range []int{0, size / 2, size - 1} {
			w := newWorld(t)
			data := message(size)
			n := w.put(alice, data, "")
			path, offset := w.find(data)
			w.flip(path, offset+int64(at))
			got, err := w.fetch(w.alice, cmtp.FetchQuery{Number: n, Length: uint64(size)}, &mailbox.Reading{})
			if !errors.Is(err, spool.ErrDamaged) || len(got) > 0 && (size < 200<<10 || len(got) > size-1) {
				t.Errorf("%d bytes, wrong at %d: %d leave, %v", size, at, len(got), err)
			}
			for name, q := range map[string]cmtp.FetchQuery{"First": {Number: n, Length: 1}, "Last": {Number: n, Offset: uint64(size - 1), Length: 1}} {
				if got, err := w.fetch(w.alice, q, &mailbox.Reading{}); !errors.Is(err, spool.ErrDamaged) || len(got) > 0 {
					t.Errorf("%s of %d bytes, wrong at %d: %d leave, %v", name, size, at, len(got), err)
				}
			}
			if _, err := w.fetch(w.bob, cmtp.FetchQuery{Number: n, Length: 1}, &mailbox.Reading{}); !errors.Is(err, mailbox.ErrNoMessage) {
				t.Errorf("bob is told of damage: %v", err)
			}
			// It is listed without its header, can be deleted, and not be flagged.
			p := w.list(w.alice, cmtp.ListQuery{Count: 9})
			if len(p.Entries) != 1 || p.Entries[0].Header != nil || p.Entries[0].Number != n {
				t.Errorf("it is listed as %+v", p.Entries)
			}
			if r := w.flag(w.alice, cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}); r[0].Status != cmtp.StatusTrouble {
				t.Errorf("flagging it: %+v", r)
			}
			if r := w.flag(w.bob, cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}); r[0].Status != cmtp.StatusNoMessage {
				t.Errorf("bob flagging it: %+v", r)
			}
			if k, _, err := w.alice.Delete(ctx, []uint64{n}); k != 1 || err != nil {
				t.Errorf("deleting it: %d, %v", k, err)
			}
		}
	}
}

// find returns where data is on disk.
func (w *world) find(data []byte) (path string, offset int64) {
	w.tb.Helper()
	paths := w.segments()
	names, err := w.fs.ReadDir("/spool/large")
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, n := range names {
		paths = append(paths, "/spool/large/"+n)
	}
	for _, p := range paths {
		if i := bytes.Index(w.read(p), data); i >= 0 {
			return p, int64(i)
		}
	}
	w.tb.Fatal("the message is nowhere on disk")
	return "", 0
}

func (w *world) flip(path string, at int64) {
	w.tb.Helper()
	f, err := w.fs.OpenWrite(path)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		w.tb.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		w.tb.Fatal(err)
	}
}

// A held writer says how long the first piece is, and takes it once it may.
type held struct {
	first chan int
	may   chan struct{}
	n     int
}

func (h *held) Write(p []byte) (int, error) {
	if h.n += len(p); h.n == len(p) {
		h.first <- len(p)
		<-h.may
	}
	return len(p), nil
}

// As many long messages as may go out in wide pieces, the next one does in small ones, and one behind them in wide ones
// again.
func TestBox_Fetch_Wide(t *testing.T) {
	w := newWorld(t)
	const size = 3 * mailbox.WideSize
	n, short := w.put(alice, message(size), ""), w.put(alice, message(size-1), "")
	begin := func(number uint64) (first int, end func()) {
		h, done := &held{first: make(chan int, 1), may: make(chan struct{})}, make(chan error, 1)
		body, err := w.alice.Fetch(cmtp.FetchQuery{Number: number, Length: math.MaxUint64}, &mailbox.Reading{})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := body.WriteTo(h)
			done <- errors.Join(err, body.Close())
		}()
		return <-h.first, func() {
			close(h.may)
			if err := <-done; err != nil || int64(h.n) != body.Size() {
				t.Errorf("%d of %d bytes are written, %v", h.n, body.Size(), err)
			}
		}
	}
	want := func(number uint64, piece int, which string) (end func()) {
		t.Helper()
		first, end := begin(number)
		if first != piece {
			t.Errorf("%s message goes out in pieces of %d bytes, want %d", which, first, piece)
		}
		return end
	}
	var ends []func()
	for range mailbox.WideMessages {
		want(short, mailbox.PieceSize, "a shorter")()
		ends = append(ends, want(n, mailbox.WideSize, "a long"))
	}
	want(n, mailbox.PieceSize, "one more")()
	ends[0]()
	ends[0] = want(n, mailbox.WideSize, "behind one that has ended, a")
	for _, end := range ends {
		end()
	}
}

// A message that was read once as a whole is not read again for each range; as many are
// remembered as there is room for.
func TestBox_Fetch_Verified(t *testing.T) {
	w := newWorld(t)
	data := message(300 << 10)
	first := w.put(alice, data, "")
	known := &mailbox.Reading{}
	if _, err := w.fetch(w.alice, cmtp.FetchQuery{Number: first, Length: 1}, known); err != nil {
		t.Fatal(err)
	}
	path, at := w.find(data)
	w.flip(path, at+5)
	if _, err := w.fetch(w.alice, cmtp.FetchQuery{Number: first, Length: 1}, known); err != nil {
		t.Errorf("it is read as a whole again: %v", err)
	}
	for i := range 64 {
		n := w.put(alice, message(200<<10+i), "")
		if _, err := w.fetch(w.alice, cmtp.FetchQuery{Number: n, Length: 1 << 30}, known); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.fetch(w.alice, cmtp.FetchQuery{Number: first, Length: 1}, known); !errors.Is(err, spool.ErrDamaged) {
		t.Errorf("it is still remembered: %v", err)
	}
}

// A writer that fails is told, and the body does not go on.
func TestBody_WriteTo_Fails(t *testing.T) {
	w := newWorld(t)
	for _, size := range lengths {
		body, err := w.alice.Fetch(cmtp.FetchQuery{Number: w.put(alice, message(size), ""), Length: 1 << 30}, &mailbox.Reading{})
		if err != nil {
			t.Fatal(err)
		}
		full := errors.New("full")
		if _, err := body.WriteTo(failing{full}); !errors.Is(err, full) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
