package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"

	"github.com/miekg/dns"
)

const oneServer = "example.org. MX 1 m.example.org.\nm.example.org. A 192.0.2.1\nm.example.org. AAAA 2001:db8::1\n"

// What does not fit is waited past, whatever it claims.
func TestResolver_Stray(t *testing.T) {
	const forged = "_cmtp.example.org. 60 TXT \"v=CMTP1; port=666\""
	for name, stray := range map[string]dnstest.Stray{
		"ID":               {Wrong: dnstest.ID},
		"name":             {Wrong: dnstest.Name},
		"type":             {Wrong: dnstest.Type},
		"two questions":    {Wrong: dnstest.Questions},
		"query":            {Wrong: dnstest.NoReply},
		"garbage":          {Wrong: dnstest.Garbage},
		"short":            {Wrong: dnstest.Short},
		"from another one": {Elsewhere: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := dnstest.Start(t, soa+txt("v=CMTP1; port=25"))
			stray.Forged = forged
			for n, network := range map[int]string{7: "udp", 8: "tcp"} {
				strays := make([]dnstest.Stray, n)
				for i := range strays {
					strays[i] = stray
				}
				s.Set(dnstest.Behaviour{Stray: strays}, "")
				f := discovery.New(settings(s.Addr, true), discovery.Options{})
				got, err := f.Published(t.Context(), domain(t, "example.org"))
				if err != nil || got.Record == nil || got.Record.Port != 25 || got.Authenticated {
					t.Fatalf("after %d: got %+v, %v", n, got, err)
				}
				if stray.Elsewhere {
					network = "udp" // the kernel lets none of it in
				}
				if all := s.Queries(); all[len(all)-1].Net != network {
					t.Errorf("after %d the answer came over %s", n, all[len(all)-1].Net)
				}
			}
		})
	}
}

// IDs and ports are not to be guessed from the last ones.
func TestResolver_Unpredictable(t *testing.T) {
	s := dnstest.Start(t, soa)
	f := discovery.New(settings(s.Addr, false), discovery.Options{})
	for i := range 16 {
		f.Published(t.Context(), domain(t, fmt.Sprintf("d%d.example.org", i)))
	}
	ids := make(map[uint16]bool)
	for _, q := range s.Queries() {
		ids[q.Msg.Id] = true
	}
	if len(ids) < 15 {
		t.Errorf("%d IDs in 16 questions", len(ids))
	}
}

// A truncated answer is asked for over TCP, where a long one comes whole.
func TestResolver_TCP(t *testing.T) {
	s, f := site(t, oneServer, false)
	s.Set(dnstest.Behaviour{Truncate: true}, "")
	got, err := f.Find(t.Context(), domain(t, "example.org"))
	if err != nil || len(got.Servers) != 2 {
		t.Errorf("got %s, %v", show(got), err)
	}
	long := strings.Repeat("x", 250)
	s, f = site(t, txt("v=CMTP1; port=25")+txt(long, long)+txt(long, long, long), false)
	published, err := f.Published(t.Context(), domain(t, "example.org"))
	if err != nil || published.Record == nil || s.Count("", 0) != 2 || s.Queries()[1].Net != "tcp" {
		t.Errorf("got %+v, %v after %d questions", published, err, s.Count("", 0))
	}
	// What comes over TCP has to fit.
	s, f = site(t, txt("v=CMTP1; port=25"), false)
	s.Set(dnstest.Behaviour{Truncate: true, Edit: func(m *dns.Msg) {
		if !m.Truncated {
			m.Id++
		}
	}}, "")
	if _, err := f.Published(t.Context(), domain(t, "example.org")); !errors.Is(err, discovery.ErrTimeout) || !strings.Contains(err.Error(), "no answer to the question") {
		t.Errorf("a wrong ID over TCP: %v", err)
	}
}

// A chain may have 8 links, whether it comes at once or piece by piece.
func TestResolver_Chain(t *testing.T) {
	for _, partial := range []bool{false, true} {
		for links, want := range map[int]error{8: nil, 9: discovery.ErrRefused} {
			zone := "_cmtp.example.org. CNAME l1.example.org.\n"
			for i := 1; i < links; i++ {
				zone += fmt.Sprintf("l%d.example.org. CNAME l%d.example.org.\n", i, i+1)
			}
			s, f := site(t, zone+fmt.Sprintf("l%d.example.org. TXT \"v=CMTP1\"\n", links), false)
			s.Set(dnstest.Behaviour{Partial: partial}, "")
			got, err := f.Published(t.Context(), domain(t, "example.org"))
			if !errors.Is(err, want) || (got.Record != nil) != (want == nil) {
				t.Errorf("%d links, partial %v: got %+v, %v", links, partial, got, err)
			}
		}
	}
}

// Resolvers are asked in order. The next one helps where one fails, but what one
// says is final.
func TestResolver_Several(t *testing.T) {
	good, bad := dnstest.Start(t, soa+txt("v=CMTP1; port=26")), dnstest.Start(t, soa)
	gone := dnstest.Start(t, soa)
	gone.Close()
	for _, c := range []struct {
		name    string
		b       dnstest.Behaviour
		servers []string
		want    error
		found   bool
		asked   int // how often the bad one was
	}{
		{"the first knows", dnstest.Behaviour{Drop: true}, []string{good.Addr, bad.Addr}, nil, true, 0},
		{"the first is silent", dnstest.Behaviour{Drop: true}, []string{bad.Addr, good.Addr}, nil, true, 1},
		{"the first is gone", dnstest.Behaviour{}, []string{gone.Addr, good.Addr}, nil, true, 0},
		{"the first fails", dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, []string{bad.Addr, good.Addr}, nil, true, 1},
		{"the first denies", dnstest.Behaviour{}, []string{bad.Addr, good.Addr}, nil, false, 1},
		{"one fails, one is silent", dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, []string{bad.Addr, gone.Addr}, discovery.ErrRefused, false, 1},
		{"one is silent, one fails", dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, []string{gone.Addr, bad.Addr}, discovery.ErrRefused, false, 1},
		{"all are gone", dnstest.Behaviour{}, []string{gone.Addr, gone.Addr}, discovery.ErrTimeout, false, 0},
		{"all are silent", dnstest.Behaviour{Drop: true}, []string{bad.Addr}, discovery.ErrTimeout, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad.Set(c.b, "")
			before := bad.Count("", 0)
			conf := config.Default()
			conf.DNS.Timeout = 300 * time.Millisecond
			f := discovery.New(conf, discovery.Options{})
			f.SetResolvers(c.servers...)
			got, err := f.Published(t.Context(), domain(t, "example.org"))
			if !errors.Is(err, c.want) || (got.Record != nil) != c.found {
				t.Errorf("got %+v, %v", got, err)
			}
			if n := bad.Count("", 0) - before; n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
		})
	}
}

// resolv.conf is read again when it may have changed.
func TestSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	clock := &clock{at: time.Now()}
	resolvers := discovery.SystemResolvers(path, clock.now)
	for _, c := range []struct {
		after time.Duration
		text  string
		want  string
	}{
		{0, "", "127.0.0.1:53 [::1]:53"},
		{5 * time.Second, "nameserver 192.0.2.1\n", "192.0.2.1:53"},
		{5*time.Second - 1, "nameserver 192.0.2.2\n", "192.0.2.1:53"},
		{1, "# nothing\n", "127.0.0.1:53 [::1]:53"},
		{5 * time.Second, "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%lo\n", "192.0.2.1:53 [2001:db8::1]:53 [fe80::1%lo]:53"},
		{5 * time.Second, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		{-time.Hour, "nameserver 192.0.2.9\n", "192.0.2.9:53"},
	} {
		clock.add(c.after)
		if c.text != "" {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(resolvers(), " "); got != c.want {
			t.Errorf("%q: got %s, want %s", c.text, got, c.want)
		}
	}
}

// An answer is kept as long as the least TTL says, but no longer than a day.
func TestCache_TTL(t *testing.T) {
	zone := soa + "" +
		"hour.example.org. 3600 A 192.0.2.1\n" +
		"zero.example.org. 0 A 192.0.2.1\n" +
		"week.example.org. 604800 A 192.0.2.1\n" +
		"chain.example.org. 60 CNAME hour.example.org.\n" +
		"two.example.org. 3600 A 192.0.2.1\ntwo.example.org. 30 A 192.0.2.2\n" +
		"none.example.org. 3600 TXT x\n" +
		"chained.example.org. 60 CNAME none.example.org.\n" +
		"short.example.net. 3600 TXT x\nexample.net. 100 SOA a. b. 1 1 1 1 7200\n" +
		"wild.example.com. 3600 TXT x\n"
	for _, c := range []struct {
		name string
		kept time.Duration
	}{
		{"hour.example.org", time.Hour},
		{"zero.example.org", 0},
		{"week.example.org", 24 * time.Hour},
		{"chain.example.org", time.Minute},
		{"two.example.org", 30 * time.Second},
		{"none.example.org", 5 * time.Minute}, // the SOA's minimum
		{"chained.example.org", time.Minute},
		{"missing.example.org", 5 * time.Minute},
		{"short.example.net", 100 * time.Second}, // the SOA's own TTL
		{"wild.example.com", 0},                  // no SOA
	} {
		s := dnstest.Start(t, zone)
		clock := &clock{at: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)}
		f := discovery.New(settings(s.Addr, false), discovery.Options{Now: clock.now})
		asked := func() int {
			t.Helper()
			f.Find(t.Context(), domain(t, c.name)) // its A is asked for if it has no MX
			n := s.Count(c.name, dns.TypeA)
			if c.name == "missing.example.org" {
				n = s.Count(c.name, dns.TypeMX)
			}
			return n
		}
		if n := asked(); n != 1 {
			t.Errorf("%s: asked %d times", c.name, n)
		}
		if c.kept > 0 {
			clock.add(c.kept - 1)
			if n := asked(); n != 1 {
				t.Errorf("%s: asked %d times before %s", c.name, n, c.kept)
			}
			clock.add(1)
		}
		if n := asked(); n != 2 {
			t.Errorf("%s: asked %d times after %s", c.name, n, c.kept)
		}
	}
}

// A failure is kept for 30 seconds, so that many messages to one domain do not
// wait for it each.
func TestCache_Failures(t *testing.T) {
	for name, b := range map[string]dnstest.Behaviour{"SERVFAIL": {Rcode: dns.RcodeServerFailure}, "timeout": {Drop: true}} {
		s := dnstest.Start(t, soa)
		s.Set(b, "")
		clock := &clock{at: time.Now()}
		conf := settings(s.Addr, false)
		conf.DNS.Timeout = 300 * time.Millisecond
		f := discovery.New(conf, discovery.Options{Now: clock.now})
		asked := func() int {
			t.Helper()
			if _, err := f.Published(t.Context(), domain(t, "example.org")); err == nil {
				t.Fatal("no error")
			}
			return s.Count("", 0)
		}
		once := asked()
		if want := map[string]int{"SERVFAIL": 1, "timeout": 2}[name]; once != want {
			t.Errorf("%s: asked %d times, want %d", name, once, want)
		}
		clock.add(30*time.Second - 1)
		if n := asked(); n != once {
			t.Errorf("%s: asked again before its time", name)
		}
		clock.add(1)
		if n := asked(); n != 2*once {
			t.Errorf("%s: asked %d times in all, want %d", name, n, 2*once)
		}
	}
}

// What an operator wants anew is asked anew: failures, and what is there; and an answer to a question
// from before is kept for nobody.
func TestFinder_Forget(t *testing.T) {
	zone := "example.org. MX 10 mx.example.net.\nmx.example.net. A 192.0.2.1\nother.example.org. MX 10 mx.example.org.\nmx.example.org. A 192.0.2.2\n"
	s, f := site(t, zone, false)
	d, other := domain(t, "example.org"), domain(t, "other.example.org")
	find := func(d address.Domain) string {
		r, err := f.Find(t.Context(), d)
		if err != nil {
			return err.Error()
		}
		return show(r)
	}
	names := []string{"_cmtp.example.org", "mx.example.net"}
	for _, name := range names {
		s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, name)
	}
	if got := find(d); !strings.Contains(got, "SERVFAIL") {
		t.Fatal(got)
	}
	before := find(other)
	for _, name := range names {
		s.Set(dnstest.Behaviour{}, name)
	}
	s.SetZone(t, soa+"example.org. MX 10 mx.example.net.\nmx.example.net. A 192.0.2.3\n")
	if got := find(d); !strings.Contains(got, "SERVFAIL") {
		t.Errorf("not remembered: %s", got)
	}
	f.Forget(d)
	if got := find(d); got != "10 mx.example.net 192.0.2.3:25" {
		t.Errorf("asked anew: %s", got)
	}
	s.SetZone(t, soa+"example.org. MX 20 mx.example.net.\nmx.example.net. A 192.0.2.4\n")
	f.Forget(d)
	if got := find(d); got != "20 mx.example.net 192.0.2.4:25" {
		t.Errorf("asked anew once more: %s", got)
	}
	if got := find(other); got != before {
		t.Errorf("another domain was forgotten: %s", got)
	}
}

func TestFinder_Forget_UnderWay(t *testing.T) {
	s, f := site(t, txt("v=CMTP1"), false)
	hold := make(chan struct{})
	fail := func(m *dns.Msg) { m.Answer, m.Rcode = nil, dns.RcodeServerFailure }
	s.Set(dnstest.Behaviour{Hold: hold, Edit: fail}, "")
	first := make(chan error)
	d := domain(t, "example.org")
	go func() {
		_, err := f.Published(t.Context(), d)
		first <- err
	}()
	s.Await(t, 1, "_cmtp.example.org", dns.TypeTXT)
	s.Set(dnstest.Behaviour{}, "")
	f.Forget(d)
	if got, err := f.Published(t.Context(), d); err != nil || got.Record == nil {
		t.Errorf("who asks after that waits for the question from before: %+v, %v", got, err)
	}
	f.Forget(d)
	close(hold)
	if err := <-first; err == nil {
		t.Error("the question from before has not failed")
	}
	if got, err := f.Published(t.Context(), d); err != nil || got.Record == nil {
		t.Errorf("the answer from before is kept: %+v, %v", got, err)
	}
}

// What is used stays; what is not, makes room.
func TestCache_Bound(t *testing.T) {
	s, f := site(t, "", false)
	if n := f.CacheSize(); n != 10000 {
		t.Errorf("%d answers are kept, the document says 10,000", n)
	}
	f.SetCacheSize(3)
	ask := func(name string) {
		t.Helper()
		if _, err := f.Published(t.Context(), domain(t, name+".example.org")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b", "c", "a", "d"} {
		ask(name)
	}
	if n := f.Cached(); n != 3 {
		t.Errorf("%d answers are kept", n)
	}
	for _, name := range []string{"a", "c", "d"} {
		ask(name)
		if n := s.Count("_cmtp."+name+".example.org", 0); n != 1 {
			t.Errorf("%s was forgotten", name)
		}
	}
	ask("b")
	if n := s.Count("_cmtp.b.example.org", 0); n != 2 {
		t.Errorf("b was asked for %d times", n)
	}
}

// Many who ask the same wait for one question, and one who gives up takes nothing
// from the others.
func TestResolver_SingleFlight(t *testing.T) {
	s, f := site(t, txt("v=CMTP1"), false)
	hold := make(chan struct{})
	s.Set(dnstest.Behaviour{Hold: hold}, "")
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := f.Published(ctx, domain(t, "example.org"))
		first <- err
	}()
	s.Await(t, 1, "_cmtp.example.org", dns.TypeTXT)
	var others sync.WaitGroup
	for range 20 {
		others.Go(func() {
			if got, err := f.Published(t.Context(), domain(t, "example.org")); err != nil || got.Record == nil {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	giveUp()
	if err := <-first; !errors.Is(err, context.Canceled) || errors.Is(err, discovery.ErrTimeout) {
		t.Errorf("the one who gave up: %v", err)
	}
	close(hold)
	others.Wait()
	if n := s.Count("", 0); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// The end of the caller's time is temporary, and nothing that is remembered.
func TestFinder_Find_Deadline(t *testing.T) {
	s, f := site(t, oneServer, false)
	hold := make(chan struct{})
	s.Set(dnstest.Behaviour{Hold: hold}, "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := f.Find(ctx, domain(t, "example.org"))
	var typed *discovery.Error
	if !errors.As(err, &typed) || !typed.Temporary() || !errors.Is(err, discovery.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(hold)
	if got, err := f.Find(t.Context(), domain(t, "example.org")); err != nil || len(got.Servers) != 2 {
		t.Errorf("afterwards: %s, %v", show(got), err)
	}
}

// No more than MaxQuestions are under way; the next one waits for one to end.
func TestResolver_MaxQuestions(t *testing.T) {
	s, f := site(t, "", false)
	hold := make(chan struct{})
	s.Set(dnstest.Behaviour{Hold: hold}, "")
	var all sync.WaitGroup
	ask := func(i int) {
		all.Go(func() {
			if _, err := f.Published(t.Context(), domain(t, fmt.Sprintf("d%d.example.org", i))); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range discovery.MaxQuestions {
		ask(i)
	}
	s.Await(t, discovery.MaxQuestions, "", 0)
	ask(discovery.MaxQuestions)
	another := discovery.New(settings(dnstest.Start(t, soa).Addr, false), discovery.Options{})
	for i := range 100 { // time in which it could go out
		another.Published(t.Context(), domain(t, fmt.Sprintf("d%d.example.org", i)))
	}
	if n := s.Count("", 0); n != discovery.MaxQuestions {
		t.Errorf("%d questions are under way", n)
	}
	close(hold)
	s.Await(t, discovery.MaxQuestions+1, "", 0)
	all.Wait()
}

// Questions that nobody waits for any more go on as long as there are places, and keep nobody from one.
func TestResolver_MaxQuestions_Left(t *testing.T) {
	s, f := site(t, oneServer, false)
	hold := make(chan struct{})
	defer close(hold)
	for i := range discovery.MaxQuestions + 1 {
		s.Set(dnstest.Behaviour{Hold: hold}, fmt.Sprintf("_cmtp.d%d.example.org", i))
	}
	ctx, giveUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	ask := func(ctx context.Context, i int) {
		all.Go(func() { f.Published(ctx, domain(t, fmt.Sprintf("d%d.example.org", i))) })
	}
	for i := range discovery.MaxQuestions - 1 {
		ask(ctx, i)
	}
	s.Await(t, discovery.MaxQuestions-1, "", 0)
	giveUp()
	all.Wait()
	// One place is left, so that nothing ends, and who asks again waits for the same question.
	ctx, cancel := context.WithCancel(t.Context())
	ask(ctx, 0)
	ask(ctx, discovery.MaxQuestions)
	s.Await(t, 1, fmt.Sprintf("_cmtp.d%d.example.org", discovery.MaxQuestions), 0)
	if n := s.Count("_cmtp.d0.example.org", 0); n != 1 {
		t.Errorf("who asks again has it asked %d times", n)
	}
	soon, end := context.WithTimeout(t.Context(), 3*time.Second) // before a question ends by itself
	defer end()
	if got, err := f.Find(soon, domain(t, "example.org")); err != nil || len(got.Servers) == 0 {
		t.Errorf("with all places taken by what nobody waits for: %v", err)
	}
	cancel()
	all.Wait()
}

// What is asked aside takes no places, and is remembered for both.
func TestFinder_Aside(t *testing.T) {
	s, f := site(t, oneServer, false)
	hold := make(chan struct{})
	aside := f.Aside()
	for i := range discovery.MaxQuestions {
		s.Set(dnstest.Behaviour{Hold: hold}, fmt.Sprintf("_cmtp.d%d.example.org", i))
	}
	var all sync.WaitGroup
	for i := range discovery.MaxQuestions {
		all.Go(func() {
			if _, err := aside.Published(t.Context(), domain(t, fmt.Sprintf("d%d.example.org", i))); err != nil {
				t.Error(err)
			}
		})
	}
	s.Await(t, discovery.MaxQuestions, "", 0)
	if got, err := f.Find(t.Context(), domain(t, "example.org")); err != nil || len(got.Servers) == 0 {
		t.Errorf("with all places aside taken: %v", err)
	}
	close(hold)
	all.Wait()
	before := len(s.Queries())
	if got, err := aside.Find(t.Context(), domain(t, "example.org")); err != nil || len(got.Servers) == 0 || len(s.Queries()) != before {
		t.Errorf("%v; %d questions for what is remembered", err, len(s.Queries())-before)
	}
}

// Both ask the same at once, and the later answer is the one that is kept, once.
func TestFinder_Aside_Both(t *testing.T) {
	s, f := site(t, txt("v=CMTP1"), false)
	hold := make(chan struct{})
	s.Set(dnstest.Behaviour{Hold: hold}, "")
	var all sync.WaitGroup
	for _, f := range []*discovery.Finder{f, f.Aside()} {
		all.Go(func() {
			if got, err := f.Published(t.Context(), domain(t, "example.org")); err != nil || got.Record == nil {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	s.Await(t, 2, "_cmtp.example.org", dns.TypeTXT)
	close(hold)
	all.Wait()
	if n := f.Cached(); n != 1 {
		t.Errorf("%d answers are kept", n)
	}
}

// A domain of many hosts has few questions under way at a time, and those of its first hosts first.
func TestFinder_Find_AtOnce(t *testing.T) {
	zone, hold := "", make(chan struct{})
	for i := range 10 {
		zone += fmt.Sprintf("example.org. 600 MX %d h%d.example.org.\nh%d.example.org. 600 A 192.0.2.%d\n", i, i, i, i+1)
	}
	s, f := site(t, zone, false)
	for i := range 10 {
		s.Set(dnstest.Behaviour{Hold: hold}, fmt.Sprintf("h%d.example.org", i))
	}
	found := make(chan error)
	go func() {
		got, err := f.Find(t.Context(), domain(t, "example.org"))
		if err == nil && len(got.Servers) != 10 {
			err = fmt.Errorf("%d servers", len(got.Servers))
		}
		found <- err
	}()
	s.Await(t, 6, "", 0)
	another := f.Aside()
	for i := range 50 { // time in which more could go out
		another.Published(t.Context(), domain(t, fmt.Sprintf("d%d.example.org", i)))
	}
	if n := s.Count("h0.example.org", 0) + s.Count("h1.example.org", 0); n != 4 {
		t.Errorf("%d questions of the first two hosts", n)
	}
	if n := len(s.Queries()) - 50; n != 6 {
		t.Errorf("%d questions, want 2 and %d", n, 4)
	}
	close(hold)
	if err := <-found; err != nil {
		t.Error(err)
	}
}
