package cache_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A device is one client of the account.
type device struct {
	*cache.Cache
	dir  string
	got  map[cache.Digest]int // how often all of a message was taken
	name string
}

// A world is a mailbox, its clients, and what they have to come to.
type world struct {
	box     *fakeBox
	devices []*device
	key     *crypt.PrivateKey
	sent    int
	backups []*past
	anew    bool // whether a backup was restored
	// By message and what of it: who has changed it and to what, as long as that is one device.
	wishes map[wish]last
	gone   map[cache.Digest]bool
}

type wish struct {
	sha  cache.Digest
	what string
}

type last struct {
	device *device
	many   bool
	set    bool
}

func (w *world) wish(d *device, sha cache.Digest, what string, set bool) {
	was, ok := w.wishes[wish{sha, what}]
	w.wishes[wish{sha, what}] = last{d, ok && (was.many || was.device != d), set}
}

// Three clients of one account under random actions, disconnections in any call, restarts of both
// sides and restores from a backup end in the same state, which is the server's.
func TestSyncer_Model(t *testing.T) {
	key := newKey(t)
	fewer(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(memory(), "model")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{box: newBox(), key: key, wishes: map[wish]last{}, gone: map[cache.Digest]bool{}}
		defer func() {
			for _, d := range w.devices {
				d.Close()
			}
			os.RemoveAll(dir)
		}()
		w.box.page = rapid.IntRange(1, 6).Draw(t, "page")
		for i := range 3 {
			d := &device{name: fmt.Sprint("device ", i), dir: filepath.Join(dir, fmt.Sprint(i)), got: map[cache.Digest]int{}}
			w.devices = append(w.devices, d)
			w.open(t, d)
		}
		for range rapid.IntRange(0, 8).Draw(t, "first") {
			w.arrive()
		}
		t.Repeat(map[string]func(*rapid.T){
			"arrive":  func(t *rapid.T) { w.arrive() },
			"change":  w.change,
			"words":   w.words,
			"delete":  w.delete,
			"sync":    w.sync,
			"sync2":   w.sync,
			"reopen":  func(t *rapid.T) { w.reopen(t, w.device(t)) },
			"backup":  func(t *rapid.T) { w.backups = append(w.backups, w.box.backup()) },
			"restore": w.restore,
			"":        w.check,
		})
		w.settle(t)
	})
}

// Processes that sync one copy at the same time, without a lock, do no harm: answers overtake one another, and what one has
// removed does not come back with the other's.
func TestSyncer_Unlocked(t *testing.T) {
	key := newKey(t)
	fewer(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(memory(), "model")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{box: newBox(), key: key, wishes: map[wish]last{}, gone: map[cache.Digest]bool{}, anew: true}
		defer func() {
			for _, d := range w.devices {
				d.Close()
			}
			os.RemoveAll(dir)
		}()
		w.box.page = rapid.IntRange(1, 4).Draw(t, "page")
		for i := range 2 {
			d := &device{name: fmt.Sprint("process ", i), dir: dir, got: map[cache.Digest]int{}}
			w.devices = append(w.devices, d)
			w.open(t, d)
		}
		for range 8 {
			w.arrive()
		}
		var together func(depth int)
		together = func(depth int) {
			d := w.devices[depth%2]
			s := w.session(d)
			s.after = func() {
				switch rapid.IntRange(0, 9).Draw(t, "meanwhile") {
				case 0:
					w.arrive()
				case 1:
					w.removeAny(t)
				case 2:
					w.change(t)
				case 3:
					w.flagAny(t)
				case 4, 5:
					if depth < 2 {
						together(depth + 1)
					}
				}
			}
			if err := cache.RunUnlocked(t.Context(), syncer(d.Cache), s); err != nil && !errors.Is(err, cache.ErrMoved) {
				t.Fatal(err)
			}
		}
		for range 3 {
			together(0)
		}
		w.settle(t)
	})
}

// removeAny has another client remove a message.
func (w *world) removeAny(t *rapid.T) {
	if all := slices.Sorted(maps.Keys(w.box.mail)); len(all) > 0 {
		w.box.session().Delete([]uint64{rapid.SampledFrom(all).Draw(t, "removed")})
	}
}

// flagAny has another client change a flag that ours do, too.
func (w *world) flagAny(t *rapid.T) {
	if all := slices.Sorted(maps.Keys(w.box.mail)); len(all) > 0 {
		flags := rapid.Uint32Range(0, 15).Draw(t, "flags")
		w.box.session().Flag([]cmtp.FlagItem{{Number: rapid.SampledFrom(all).Draw(t, "flagged"), Mask: 15, Flags: flags}})
	}
}

// fewer bounds how often a model is tried where -rapid.checks does not say so: each costs some databases.
func fewer(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("30")
		t.Cleanup(func() { f.Value.Set(f.DefValue) })
	}
}

// memory is a directory that costs no flushes, where there is one; else "".
func memory() string {
	if s, err := os.Stat("/dev/shm"); err == nil && s.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func (w *world) open(t *rapid.T, d *device) {
	c, err := cache.Open(t.Context(), d.dir, []*crypt.PrivateKey{w.key}, cache.Options{Note: func(s string) { t.Fatal(s) }})
	if err != nil {
		t.Fatal(err)
	}
	d.Cache = c
}

func (w *world) reopen(t *rapid.T, d *device) {
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(t, d)
}

func (w *world) device(t *rapid.T) *device { return rapid.SampledFrom(w.devices).Draw(t, "device") }

func (w *world) arrive() {
	w.sent++
	w.box.arrive(text("ben@b.example", "anna@a.example", fmt.Sprintf("letter %d\nabout word%d", w.sent, w.sent)))
}

// pick chooses a message that a device shows; false where there is none.
func (w *world) pick(t *rapid.T, d *device) (m cache.Message, ok bool) {
	all, err := d.List(t.Context(), cache.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		return m, false
	}
	return rapid.SampledFrom(all).Draw(t, "message"), true
}

func (w *world) change(t *rapid.T) {
	d := w.device(t)
	if m, ok := w.pick(t, d); ok {
		bit := uint32(1) << rapid.IntRange(0, 3).Draw(t, "bit")
		set := rapid.Bool().Draw(t, "set")
		n := cache.Note{Mask: bit}
		if set {
			n.Flags = bit
		}
		if err := d.Change(t.Context(), []int64{m.ID}, n); err != nil {
			t.Fatal(err)
		}
		w.wish(d, m.SHA256, fmt.Sprint("flag ", bit), set)
	}
}

func (w *world) words(t *rapid.T) {
	d := w.device(t)
	if m, ok := w.pick(t, d); ok {
		word := rapid.SampledFrom([]string{"red", "green", "blue"}).Draw(t, "word")
		set := rapid.Bool().Draw(t, "set")
		n := cache.Note{Remove: []string{word}}
		if set {
			n = cache.Note{Add: []string{word}}
		}
		if err := d.Change(t.Context(), []int64{m.ID}, n); err != nil {
			t.Fatal(err)
		}
		w.wish(d, m.SHA256, word, set)
	}
}

func (w *world) delete(t *rapid.T) {
	d := w.device(t)
	if m, ok := w.pick(t, d); ok {
		if err := d.Delete(t.Context(), []int64{m.ID}); err != nil {
			t.Fatal(err)
		}
		w.gone[m.SHA256] = true
	}
}

// restore brings an older state back, under another epoch.
func (w *world) restore(t *rapid.T) {
	if len(w.backups) == 0 {
		t.Skip("there is no backup")
	}
	w.box.restore(rapid.SampledFrom(w.backups).Draw(t, "backup"))
	w.anew = true
}

// sync is one session, which may break off anywhere, while other clients act.
func (w *world) sync(t *rapid.T) {
	d := w.device(t)
	s := w.session(d)
	faults := rapid.SampledFrom([]int{0, 3, 10}).Draw(t, "faults")
	s.fault = func() bool { return faults > 0 && rapid.IntRange(0, faults).Draw(t, "fault") == faults }
	s.behind = func() {
		switch rapid.IntRange(0, 8).Draw(t, "meanwhile") {
		case 0:
			w.arrive()
		case 1:
			w.change(t)
		case 2:
			w.words(t)
		case 3:
			o := w.session(w.device(t)) // perhaps the same one: then in another process, but for the lock
			if m, ok := w.pick(t, w.devices[0]); ok {
				o.Flag([]cmtp.FlagItem{{Number: m.Number, Mask: 1 << 9, Flags: 1 << 9}})
			}
		}
	}
	_, err := syncer(d.Cache).Run(t.Context(), s)
	if err != nil && !errors.Is(err, errLost) {
		t.Fatal(err)
	}
}

func (w *world) session(d *device) *session {
	s := w.box.session()
	s.gave = func(sha cache.Digest, _ uint64) { d.got[sha]++ }
	return s
}

// check holds what a device shows to itself.
func (w *world) check(t *rapid.T) {
	for _, d := range w.devices {
		for sha, n := range d.got {
			if n > 1 && !w.anew {
				t.Fatalf("%s has fetched %x %d times", d.name, sha[:4], n)
			}
		}
	}
}

// settle lets all sync until nobody has anything to say, and compares.
func (w *world) settle(t *rapid.T) {
	for range 3 {
		for _, d := range w.devices {
			if _, err := syncer(d.Cache).Run(t.Context(), w.session(d)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := w.server()
	for _, d := range w.devices {
		if have := w.shown(t, d); !maps.Equal(have, want) {
			t.Fatalf("%s has\n%v\nand the server\n%v", d.name, have, want)
		}
		if n, err := d.Counts(t.Context()); err != nil || n.Pending != 0 || n.Wanted != 0 || n.Unlisted {
			t.Fatalf("%s: %+v, %v", d.name, n, err)
		}
	}
	w.check(t)
	if !w.anew {
		w.wished(t)
	}
}

// server tells each message in a line, by its number.
func (w *world) server() map[uint64]string {
	all := map[uint64]string{}
	for n, m := range w.box.mail {
		words, _ := openWords(m.entry.SHA256, m.entry.Keywords)
		all[n] = line(m.entry.SHA256, m.entry.Change, m.entry.Flags, words)
	}
	return all
}

func line(sha cache.Digest, change uint64, flags uint32, words []string) string {
	return fmt.Sprintf("%x change %d flags %#x words %s", sha[:4], change, flags, strings.Join(words, ","))
}

func (w *world) shown(t *rapid.T, d *device) map[uint64]string {
	list, err := d.List(t.Context(), cache.Filter{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	all := map[uint64]string{}
	for _, m := range list {
		all[m.Number] = line(m.SHA256, m.Change, m.Flags, m.Words)
		if m.Opened == nil {
			t.Fatalf("%s has message %d in state %d: %s", d.name, m.Number, m.State, m.Reason)
		}
		number := strings.TrimPrefix(m.Opened.Subject, "letter ")
		found, err := d.Search(t.Context(), "word"+number, cache.Filter{})
		if err != nil || len(found) != 1 || found[0].ID != m.ID {
			t.Fatalf("%s finds %v for word%s, %v", d.name, subjects(found), number, err)
		}
	}
	if !w.anew && !slices.IsSortedFunc(list, func(a, b cache.Message) int { return int(b.Number>>1) - int(a.Number>>1) }) {
		t.Fatalf("%s lists out of order", d.name)
	}
	return all
}

// wished finds what one device alone has changed on the server.
func (w *world) wished(t *rapid.T) {
	there := map[cache.Digest]cmtp.Entry{}
	for _, m := range w.box.mail {
		there[m.entry.SHA256] = m.entry
		if w.gone[m.entry.SHA256] {
			t.Fatalf("%x was deleted, and is there", m.entry.SHA256[:4])
		}
	}
	for k, l := range w.wishes {
		e, ok := there[k.sha]
		if l.many || !ok {
			continue
		}
		words, _ := openWords(k.sha, e.Keywords)
		has := slices.Contains(words, k.what)
		var bit uint32
		if n, _ := fmt.Sscanf(k.what, "flag %d", &bit); n == 1 {
			has = e.Flags&bit != 0
		}
		if has != l.set {
			t.Fatalf("%s has set %s of %x to %v, and the server has %v", l.device.name, k.what, k.sha[:4], l.set, has)
		}
	}
}
