package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/cmtp"
)

// The besiegers, each kind from addresses of its own, and how many each may have connected from one (the default of
// max_connections_per_address).
const (
	besiegers   = 19000 // idle
	drippers    = 100   // that send a message as slowly as they may
	knockers    = 64    // that knock at the same time, of one address that has used its share up
	perAddress  = 64
	dripEvery   = 250 * time.Millisecond
	dripOf      = 512             // bytes each time: twice min_rate
	siegeFor    = 3 * time.Second // a cell, for each round
	siegeTarget = 2               // times the usual

	// siegeConns is max_connections: with it the daemon may have as many files as its load.
	siegeConns = besiegers + 230
)

// The address of each assault: who was barred from one is not, from another.
var knocker, rusher, churner = net.IPv4(127, 3, 0, 1), net.IPv4(127, 3, 0, 2), net.IPv4(127, 3, 0, 3)

// siege measures what other clients wait for while a server is held up in every way that its limits allow.
func siege(l *lab) (*table, error) {
	s, watch, err := l.besieged()
	if err != nil {
		return nil, err
	}
	cmd, err := s.serve(unprivileged()...)
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "Served in a siege",
		note: fmt.Sprintf("What one client at a time waits for, each time on a new connection, and each round from another address: from connecting until the answer to a KEYREQUEST, until SUCCESS of a\n"+
			"letter of 4 KiB, and until NOOP is answered inside the channel. Each cell is there once, for %v; in brackets p99. The limits are the defaults but max_connections (%d). A flood is a process\n"+
			"that connects %d times at once, all from one address: to knock is to be refused since that address has its %d connections, to rush is not to wait for the refusal (limits.flood_pause), to\n"+
			"churn is to have no others, to be greeted and to leave. It takes a CPU of the two here; the same at a bare server shows what comes of that. Idle connections are %d of 297\n"+
			"addresses that have asked for a key; slow senders are %d more that send a message each, %d bytes every %v. The daemon has no privileges, as under its unit, but where the\n"+
			"kernel drops for it: kernels of late want CAP_NET_ADMIN for that (docs/operations.md, Firewall). (times the usual: the worst of the three, p50.)",
			l.siegeTime(), siegeConns, knockers, perAddress, besiegers, drippers, dripOf, dripEvery),
		header: []string{"meanwhile", "KEYREQUEST, µs", "letter, µs", "inside, µs", "times the usual", "connections/s of the flood"},
	}
	usual, err := l.besiege(t, s, watch, cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return t, l.besiegeDropping(t, usual)
}

// unprivileged is the call before a daemon's that takes from root what its unit does not give.
func unprivileged() []string {
	if os.Geteuid() != 0 {
		return nil
	}
	return []string{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"}
}

// besiegeDropping measures rushing at a daemon whose kernel drops a flood's packets, which takes a privilege.
func (l *lab) besiegeDropping(t *table, usual visits) error {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "LEFT OUT: rushing where the kernel drops: that takes root")
		return nil
	}
	s, watch, err := l.besieged()
	if err != nil {
		return err
	}
	if _, err := s.serve(); err != nil {
		return err
	}
	return (&fortress{l, t, s, watch, usual}).under("rushing, and the kernel drops", "rush", s.addr)
}

// siegeTime is how long a cell lasts: besiegers come to stay, so the cells are not in turns.
func (l *lab) siegeTime() time.Duration { return time.Duration(l.rounds) * siegeFor }

// besieged makes a site with the defaults' limits for one address, and says where its metrics are.
func (l *lab) besieged() (*site, string, error) {
	watch, err := freePort()
	if err != nil {
		return nil, "", err
	}
	s, err := l.site(siegeConns, fmt.Sprintf("[metrics]\nlisten = %q\n", watch))
	if err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(s.conf)
	if err != nil {
		return nil, "", err
	}
	conf := string(text)
	for _, line := range []string{fmt.Sprintf("max_connections_per_address = %d\n", siegeConns), "connection_rate = 1048576\n", "connection_burst = 1048576\n"} {
		if !strings.Contains(conf, line) {
			return nil, "", fmt.Errorf("%s has no line %q", s.conf, line)
		}
		conf = strings.Replace(conf, line, "", 1)
	}
	return s, watch, os.WriteFile(s.conf, []byte(conf), 0o600)
}

// A fortress is one server under different kinds of load, and what somebody who visits it waits for.
type fortress struct {
	*lab
	*table
	site  *site
	watch string // the address of its metrics
	usual visits // when there is no load
}

// besiege measures with one kind of besieger after the other, each beside those before it.
func (l *lab) besiege(t *table, s *site, watch string, pid int) (usual visits, err error) {
	bare, err := l.self("door")
	if err != nil {
		return usual, err
	}
	if usual, err = l.visit(s.addr); err != nil {
		return usual, err
	}
	t.add(usual.row("nothing else", usual, "")...)
	g := &fortress{l, t, s, watch, usual}
	for _, a := range []struct{ name, role string }{{"knocking", "knock"}, {"rushing", "rush"}, {"churning", "churn"}} {
		if err := g.under(a.name+" at the bare server", a.role, bare); err != nil {
			return usual, err
		}
		if err := g.under(a.name, a.role, s.addr); err != nil {
			return usual, err
		}
	}
	if err := g.crowded(); err != nil {
		return usual, err
	}
	most, err := memory(pid, "VmHWM")
	t.add("most resident, MiB", "", "", "", number(most/1024), "")
	return usual, err
}

// under visits while another process plays a role at an address.
func (g *fortress) under(name, role, addr string) error {
	before, err := refused(g.watch)
	if err != nil {
		return err
	}
	var w visits
	rate, err := during(role, addr, func() (err error) {
		w, err = g.visit(g.site.addr)
		return err
	})
	if err != nil {
		return err
	}
	after, err := refused(g.watch)
	if err != nil {
		return err
	}
	// A rate of a second is less than what there was in three.
	if counted := after - before; addr == g.site.addr && role == "knock" && counted < rate {
		return fmt.Errorf("the metrics know of %.0f refused connections, and %.0f a second were", counted, rate)
	}
	g.add(w.row(name, g.usual, number(rate))...)
	return nil
}

// beside visits beside whatever is there now.
func (g *fortress) beside(name string) error {
	w, err := g.visit(g.site.addr)
	if err == nil {
		g.add(w.row(name, g.usual, "")...)
	}
	return err
}

// crowded visits beside those who do nothing, and those who do it slowly.
func (g *fortress) crowded() error {
	crowd, err := idlers(g.site.addr)
	defer func() { closeAll(crowd) }()
	if err != nil {
		return err
	}
	if err := g.beside("idle connections"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(g.ctx)
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer cancel()
	if err := drip(ctx, g.site.addr, &dripping); err != nil {
		return err
	}
	return errors.Join(g.beside("idle connections, slow senders"),
		g.under("idle connections, slow senders, knocking", "knock", g.site.addr),
		g.under("idle connections, slow senders, rushing", "rush", g.site.addr))
}

// visits is what a client waited for, at each kind of visit.
type visits [3][]time.Duration // KEYREQUEST, letter, inside; the shortest first

// visit is a client that comes again and again, in turn for each of three reasons.
func (l *lab) visit(addr string) (w visits, err error) {
	text, unique := sealedMail(l.serial(), 4096)
	for start, n := time.Now(), uint64(0); time.Since(start) < l.siegeTime(); n++ {
		if err := l.ctx.Err(); err != nil {
			return w, err
		}
		binary.BigEndian.PutUint64(unique, n)
		from := net.IPv4(127, 4, byte(n>>8), byte(n))
		inside := starts(addr)
		inside.from = []net.IP{from}
		for i, call := range []func() error{
			func() error { return ask(addr, from, keyRequest, outside.key) },
			func() error { return ask(addr, from, text, outside.mail) },
			inside.once,
		} {
			begun := time.Now()
			if err := call(); err != nil {
				return w, err
			}
			w[i] = append(w[i], time.Since(begun))
		}
	}
	for i := range w {
		slices.Sort(w[i])
	}
	return w, nil
}

// ask connects, asks, and waits for an answer.
func ask(addr string, from net.IP, request []byte, want answer) error {
	c, err := greeted(addr, from)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.SetDeadline(time.Now().Add(20*time.Second))); err != nil {
		return err
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	reply := make([]byte, want.size)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if !want.is(reply) {
		return fmt.Errorf("a request was answered %q", reply)
	}
	return nil
}

// row shows the visits, and how much longer than usual the worst kind of them took.
func (w visits) row(name string, usual visits, refused string) []string {
	cells, worst := []string{name}, 0.0
	for i := range w {
		half := w[i][len(w[i])/2]
		cells = append(cells, fmt.Sprintf("%d (%d)", half.Microseconds(), w[i][len(w[i])*99/100].Microseconds()))
		worst = max(worst, float64(half)/float64(usual[i][len(usual[i])/2]))
	}
	verdict := fmt.Sprintf("%.2f (%s)", worst, atMost(worst, siegeTarget, ""))
	return append(cells, verdict, refused)
}

// idlers connects the idle ones, perAddress of them from each address.
func idlers(addr string) (all []net.Conn, err error) {
	reply := make([]byte, outside.key.size)
	for i := range besiegers {
		at := i / perAddress
		c, err := outside.open(addr, net.IPv4(127, 1, byte(at/250), byte(1+at%250)))
		if err != nil {
			return all, fmt.Errorf("connection %d: %w", i+1, err)
		}
		all = append(all, c)
		if _, err := c.Write(keyRequest); err != nil {
			return all, err
		}
		if _, err := io.ReadFull(c, reply); err != nil || !outside.key.is(reply) {
			return all, fmt.Errorf("reply %d: %q, %w", i+1, reply, err)
		}
	}
	return all, nil
}

func closeAll(all []net.Conn) {
	for _, c := range all {
		c.Close()
	}
}

// drip begins a message on each of many connections, and goes on slowly until ctx ends. One that is cut off stays
// away: it would have had to be faster.
func drip(ctx context.Context, addr string, dripping *sync.WaitGroup) error {
	header := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: 1 << 20,
		DestinationAccount: "alice", DestinationDomain: "bench.example", SourceAccount: "slow", SourceDomain: "elsewhere.example"}
	begin := append(header.Append((&cmtp.Command{Verb: cmtp.Mail}).Append(nil)), 0)
	for i := range drippers {
		c, err := outside.open(addr, net.IPv4(127, 2, 0, byte(1+i/perAddress)))
		if err != nil {
			return err
		}
		if _, err := c.Write(begin); err != nil {
			return err
		}
		dripping.Go(func() {
			defer c.Close()
			drop := make([]byte, dripOf)
			tick := time.NewTicker(dripEvery)
			defer tick.Stop()
			for err := error(nil); err == nil; _, err = c.Write(drop) {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	return nil
}

// knock uses up the share of one address, and then connects until its standard input ends, to be refused.
func knock(addr string) error { return assault(addr, knocker, perAddress, turnedAway) }

// rush is knock without waiting for an answer.
func rush(addr string) error {
	return assault(addr, rusher, perAddress, func(net.Conn) error { return nil })
}

// churn stays within the share: it connects, is greeted, and leaves.
func churn(addr string) error {
	return assault(addr, churner, 0, func(c net.Conn) error {
		_, err := bufio.NewReaderSize(c, 128).ReadString('\n')
		return err
	})
}

// assault holds connections of one address, and makes knockers further ones at a time until its standard input ends.
// It prints an empty line when it begins, and at the end how many a second they were.
func assault(addr string, from net.IP, hold int, each func(net.Conn) error) error {
	var held []net.Conn
	defer func() { closeAll(held) }()
	for range hold {
		c, err := dial(addr, from)
		if err != nil {
			return err
		}
		held = append(held, c)
	}
	fmt.Println()
	ctx, cancel := context.WithTimeout(context.Background(), floodFor)
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var made atomic.Int64
	errs := make([]error, knockers)
	var all sync.WaitGroup
	start := time.Now()
	for i := range knockers {
		all.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				switch err := once(ctx, addr, from, each); {
				case err == nil:
					made.Add(1)
				case ctx.Err() == nil:
					errs[i] = err
				}
			}
		})
	}
	all.Wait()
	fmt.Println(float64(made.Load()) / time.Since(start).Seconds())
	return errors.Join(errs...)
}

// once makes one connection of an assault, however long that takes before ctx ends, and resets it at its end.
func once(ctx context.Context, addr string, from net.IP, each func(net.Conn) error) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.SetDeadline(time.Now().Add(20*time.Second))); err != nil {
		return err
	}
	return each(c)
}

// turnedAway waits to be refused.
func turnedAway(c net.Conn) error {
	line, err := bufio.NewReaderSize(c, 128).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "421 ") {
		err = fmt.Errorf("who has its share was answered %q", line)
	}
	return err
}

// serveDoor refuses everybody but the first of a share, whom it lets wait, as cheaply as can be.
func serveDoor(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	var held []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if host, _, _ := net.SplitHostPort(c.RemoteAddr().String()); strings.HasPrefix(host, "127.3.") && len(held) < perAddress {
			held = append(held, c)
			continue
		}
		io.WriteString(c, "421 4.7.0 bare too many connections\r\n")
		c.Close()
	}
}

// refused asks the daemon how many connections it has refused.
func refused(watch string) (total float64, err error) {
	r, err := http.Get("http://" + watch + "/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "cmtpd_connections_refused_total{") {
			n, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, lines.Err()
}
