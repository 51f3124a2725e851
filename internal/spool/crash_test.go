package spool_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

var (
	crashes   = flag.Int("crashes", 150, "how often TestSpool_Crash kills the process that has the spool")
	crashSeed = flag.Uint64("crashseed", rand.Uint64(), "the seed of its moments")
)

// In the environment of a process that loads a spool: the spool's directory, and a
// number from which on no content was sent before.
const (
	loadDir   = "SPOOL_LOAD_DIR"
	loadFirst = "SPOOL_LOAD_FIRST"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(loadDir); dir != "" {
		fmt.Fprintln(os.Stderr, newLoad(dir).run())
		os.Exit(1) // it is to be killed
	}
	os.Exit(m.Run())
}

// TestSpool_Crash kills a process by SIGKILL that stores, removes and compacts, most of the
// time while it compacts, sometimes while it recovers. What it was told is stored is there
// afterwards, once and byte for byte, unless a removal of it was begun; what it was told is
// removed stays so; and every state that a kill has left is proven as it is.
func TestSpool_Crash(t *testing.T) {
	t.Parallel()
	t.Logf("-crashseed %d", *crashSeed)
	hits := 0
	for done := 0; done < *crashes; { // a few spools: the longer a chain, the longer the proof
		v := newVictim(t, filepath.Join(t.TempDir(), "spool"), *crashSeed+uint64(done))
		for n := 0; n < 15 && done < *crashes; n++ {
			v.kill(n%4 == 3)
			v.check()
			done++
		}
		v.finish()
		hits += v.hits
	}
	if hits < *crashes/2 {
		t.Errorf("only %d of %d kills came during a compaction", hits, *crashes)
	}
	t.Logf("%d kills, %d of them during a compaction", *crashes, hits)
}

// loadOptions make a second's work pass through many segments.
func loadOptions(o spool.Options) spool.Options {
	o.SegmentSize, o.LargeThreshold, o.CompactRate, o.NoSpare = 64<<10, 16<<10, 256<<20, false
	return o
}

// content returns what message n is.
func content(n int) []byte {
	return text(n, []int{30, 300, 3000, 900, 300, 50, 20 << 10, 1200}[n%8])
}

// A load is the process that is killed. It says on its output what it is told.
type load struct {
	dir     string
	options spool.Options
	next    atomic.Int64
	removed chan struct{} // holds a token when there may be something to compact
	failed  chan error

	mu    sync.Mutex
	there []spool.ID // under mu: what nobody has begun to remove
}

func newLoad(dir string) *load {
	l := &load{dir: dir, options: loadOptions(options(new(testing.B))), removed: make(chan struct{}, 1), failed: make(chan error, 16)}
	var first int64
	fmt.Sscan(os.Getenv(loadFirst), &first)
	l.next.Store(first)
	return l
}

// run loads the spool until it fails.
func (l *load) run() error {
	s, err := spool.Open(l.dir, l.options)
	if err != nil {
		return err
	}
	if d := s.Damage(); len(d) > 0 {
		return fmt.Errorf("after its recovery the spool has damage: %v", d)
	}
	for info, err := range s.All(0) {
		if err != nil {
			return err
		}
		l.there = append(l.there, info.ID)
	}
	for range 8 {
		go func() { l.failed <- l.store(s) }()
	}
	for seed := range uint64(2) {
		go func() { l.failed <- l.remove(s, rand.New(rand.NewPCG(seed, uint64(l.next.Load())))) }()
	}
	go func() { l.failed <- l.compact(s) }()
	return <-l.failed
}

// put stores one message and says so.
func (l *load) put(s *spool.Spool) (spool.ID, error) {
	n := int(l.next.Add(1))
	st, err := store(s, box(byte(1+n%5)), content(n))
	if err == nil {
		fmt.Printf("stored %d %d %d %x\n", st.ID, n, st.Head.Number, st.Head.Hash)
	}
	return st.ID, err
}

func (l *load) store(s *spool.Spool) error {
	for {
		id, err := l.put(s)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.there = append(l.there, id)
		l.mu.Unlock()
	}
}

// pick takes a few messages, if there are many.
func (l *load) pick(r *rand.Rand) (ids []spool.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.there) > 200 && len(ids) < 20 {
		i, last := r.IntN(len(l.there)), len(l.there)-1
		ids = append(ids, l.there[i])
		l.there[i] = l.there[last]
		l.there = l.there[:last]
	}
	return ids
}

// remove removes what is too much, or else one message that it stores for that.
func (l *load) remove(s *spool.Spool, r *rand.Rand) error {
	for {
		ids := l.pick(r)
		if len(ids) == 0 {
			id, err := l.put(s)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		fmt.Println("take", numbers(ids))
		if n, err := s.RemoveAll(ctx, ids, "load"); err != nil || n != len(ids) {
			return fmt.Errorf("%d of %d messages were removed: %w", n, len(ids), err)
		}
		fmt.Println("gone", numbers(ids))
		select {
		case l.removed <- struct{}{}:
		default:
		}
	}
}

func numbers(ids []spool.ID) string {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&b, "%d ", uint64(id))
	}
	return b.String()
}

func (l *load) compact(s *spool.Spool) error {
	for range l.removed {
		fmt.Println("compact")
		if err := s.Compact(ctx); err != nil {
			return err
		}
		fmt.Println("compacted")
	}
	return nil
}

// A victim is a spool whose processes are killed, and what they said.
type victim struct {
	testing.TB
	dir     string
	options spool.Options
	rand    *rand.Rand
	runs    int
	hits    int // ends that came during a compaction

	stored map[spool.ID]int  // what is, or may be, there: the number of its content
	taken  map[spool.ID]bool // what is there, or was removed
	gone   map[spool.ID]bool
	head   spool.Head
	cut    atomic.Bool // the power goes off, or has: see hear
}

func newVictim(t testing.TB, dir string, seed uint64) *victim {
	return &victim{TB: t, dir: dir, options: loadOptions(options(t)), rand: rand.New(rand.NewPCG(seed, 1)),
		stored: make(map[spool.ID]int), taken: make(map[spool.ID]bool), gone: make(map[spool.ID]bool)}
}

// kill has a process load the spool and kills it: early, which may be in its recovery, or
// else during a compaction.
func (v *victim) kill(early bool) {
	v.Helper()
	if said := v.run(early, func(p *os.Process) { p.Kill() }); said != "" {
		v.Fatalf("before it was killed the process said: %s", said)
	}
}

// run has a process load the spool until end ends it, and returns what it complained of.
func (v *victim) run(early bool, end func(*os.Process)) string {
	v.Helper()
	v.runs++
	v.cut.Store(false)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), loadDir+"="+v.dir, fmt.Sprintf("%s=%d", loadFirst, v.runs*1_000_000))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		v.Fatal(err)
	}
	begun, heard := make(chan struct{}), make(chan error, 1)
	go func() { heard <- v.hear(out, begun) }()
	moment := time.Duration(v.rand.Int64N(int64(80 * time.Millisecond)))
	if !early {
		select {
		case <-begun:
		case err := <-heard: // the process ended by itself
			heard <- err
		}
	}
	time.Sleep(moment) // a random one: there is nothing to wait for
	end(cmd.Process)
	if err := errors.Join(<-heard, out.Close()); err != nil {
		v.Fatal(err)
	}
	cmd.Wait() // it was killed
	return errs.String()
}

// hear writes down what the process says, to its end, and closes begun at the first
// compaction. What is heard once the power goes off acknowledges nothing: a machine without power says nothing more, but
// here the process goes on for a moment, and a flush that is under way while its file system is shut down
// can succeed without effect (XFS asks at its beginning alone whether it is).
func (v *victim) hear(out io.Reader, begun chan<- struct{}) error {
	compacting, once := false, sync.OnceFunc(func() { close(begun) })
	in := bufio.NewReader(out)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if compacting {
				v.hits++
			}
			return nil // what is no line was not said
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "compact", "compacted":
			if compacting = verb == "compact"; compacting {
				once()
			}
		case "stored":
			if !v.cut.Load() {
				err = v.heardStored(rest)
			}
		case "take":
			err = each(rest, func(id spool.ID) { v.taken[id] = true })
		case "gone":
			if !v.cut.Load() {
				err = each(rest, func(id spool.ID) { v.gone[id] = true })
			}
		default:
			err = errors.New("not a word of a load")
		}
		if err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
	}
}

func (v *victim) heardStored(rest string) error {
	var id spool.ID
	var n int
	var h spool.Head
	var hash []byte
	if _, err := fmt.Sscanf(rest, "%d %d %d %x", &id, &n, &h.Number, &hash); err != nil {
		return err
	}
	if _, ok := v.stored[id]; ok || len(hash) != len(h.Hash) {
		return errors.New("a number that was given before, or no head")
	}
	h.Hash = [32]byte(hash)
	v.stored[id] = n
	if h.Number > v.head.Number {
		v.head = h
	}
	return nil
}

func each(list string, do func(spool.ID)) error {
	for word := range strings.FieldsSeq(list) {
		id, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return err
		}
		do(spool.ID(id))
	}
	return nil
}

// check holds what was left on disk to what was said. What is there now counts as stored from
// then on, and what is not as removed.
func (v *victim) check() {
	v.Helper()
	s, err := spool.OpenReadOnly(v.dir, durable.OS)
	if errors.Is(err, fs.ErrNotExist) && len(v.stored) == 0 {
		return // killed before there was one
	}
	if err != nil {
		v.Fatal(err)
	}
	defer s.Close()
	there := make(map[spool.ID]int)
	numbers := make(map[int]spool.ID)
	for info, err := range s.All(0) {
		if err != nil {
			v.Fatal(err)
		}
		data, err := read(s, info.ID)
		if err != nil {
			v.Fatal(err)
		}
		var n int
		fmt.Sscanf(string(data), "message %d", &n)
		if !bytes.Equal(data, content(n)) {
			v.Fatalf("message %s is %.40q", info.ID, data)
		}
		if before, ok := numbers[n]; ok {
			v.Fatalf("message %s is message %s again", info.ID, before)
		}
		if was, ok := v.stored[info.ID]; v.gone[info.ID] || ok && was != n {
			v.Fatalf("message %s is content %d; it was stored as %d, its removal acknowledged: %v", info.ID, n, was, v.gone[info.ID])
		}
		there[info.ID], numbers[n] = n, info.ID
	}
	for id, n := range v.stored {
		if _, ok := there[id]; !ok && !v.taken[id] {
			v.Fatalf("message %s, content %d, was acknowledged and is gone", id, n)
		} else if !ok {
			v.gone[id] = true
			delete(v.stored, id)
		}
	}
	maps.Copy(v.stored, there)
	clear(v.taken)
	report, err := spool.Verify(ctx, durable.OS, v.dir, v.options.Identity.Public(), nil, v.wanted()...)
	if err := errors.Join(err, report.Err()); err != nil {
		v.Fatal(err)
	}
}

// wanted returns the head that the chain must contain.
func (v *victim) wanted() []spool.Head {
	if v.head.Number == 0 {
		return nil
	}
	return []spool.Head{v.head}
}

// finish recovers the spool once more, and looks for what should not be left.
func (v *victim) finish() {
	v.Helper()
	s := open(v, v.dir, v.options)
	st := s.Stats()
	if st.Messages != len(v.stored) || st.Damage != 0 {
		v.Errorf("%+v, want %d messages", st, len(v.stored))
	}
	if err := errors.Join(s.Compact(ctx), s.Close()); err != nil {
		v.Error(err)
	}
	v.check()
	for dir, want := range map[string]int{"tmp": 0, "spare": 0, "large": st.Large} {
		if got := names(v, durable.OS, filepath.Join(v.dir, dir)); len(got) != want {
			v.Errorf("%s holds %d files instead of %d", dir, len(got), want)
		}
	}
}
