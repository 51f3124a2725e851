package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// boxed opens a channel whose user is proven, to a server that answers one command by do.
func boxed(t *testing.T, d client.Dialer, verb cmtp.Verb, do func(*clienttest.Conn, cmtp.Command) error) *client.Channel {
	t.Helper()
	o := newOwner(t)
	s := privateWith(t, o)
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if c.Channel == nil || cmd.Verb != verb {
			return false, nil
		}
		return true, do(c, cmd)
	}
	ch := openWith(t, d, s.Start(t))
	if _, err := ch.Auth(bob, o.key); err != nil {
		t.Fatal(err)
	}
	return ch
}

// numbers asks for all of the messages 1 to n.
func numbers(n uint64) func(func(cmtp.FetchQuery) bool) {
	return func(yield func(cmtp.FetchQuery) bool) {
		for i := range n {
			if !yield(cmtp.FetchQuery{Number: i + 1, Length: 1 << 20}) {
				return
			}
		}
	}
}

// Nothing of the mailbox is asked for before a user is proven.
func TestChannel_Mailbox_NotProven(t *testing.T) {
	s := private(t)
	ch := open(t, s.Start(t))
	for name, call := range map[string]func() error{
		"Mailbox": func() error { _, err := ch.Mailbox(); return err },
		"List":    func() error { _, err := ch.List(cmtp.ListQuery{Count: 1}); return err },
		"Changes": func() error { _, err := ch.Changes(cmtp.ChangesQuery{Count: 1}); return err },
		"Fetch":   func() error { _, err := ch.Fetch(cmtp.FetchQuery{}, io.Discard); return err },
		"Flag":    func() error { _, err := ch.Flag(nil); return err },
		"Delete":  func() error { _, err := ch.Delete(nil); return err },
		"Wait":    func() error { _, err := ch.Wait(t.Context(), cmtp.WaitQuery{Seconds: 1}); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrNotProven) {
			t.Errorf("%s: error %v, want ErrNotProven", name, err)
		}
	}
}

// What could not stand in a command is not sent, and the channel goes on.
func TestChannel_Mailbox_Parameters(t *testing.T) {
	ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Delete, func(c *clienttest.Conn, _ cmtp.Command) error {
		if _, err := cmtp.ReadForm(c.In); err != nil {
			return err
		}
		return c.Done(cmtp.AppendDeleted(nil, 0))
	})
	for name, call := range map[string]func() error{
		"Delete1001":  func() error { _, err := ch.Delete(make([]uint64, cmtp.MaxDelete+1)); return err },
		"Seconds0":    func() error { _, err := ch.Wait(t.Context(), cmtp.WaitQuery{}); return err },
		"Seconds1741": func() error { _, err := ch.Wait(t.Context(), cmtp.WaitQuery{Seconds: cmtp.MaxWait + 1}); return err },
		"Keywords129": func() error {
			_, err := ch.Flag([]cmtp.FlagItem{{SetKeywords: true, Keywords: make([]byte, 129)}})
			return err
		},
		"ServersFlag":  func() error { _, err := ch.Flag([]cmtp.FlagItem{{Mask: 1 << 16}}); return err },
		"OutsideMask":  func() error { _, err := ch.Flag([]cmtp.FlagItem{{Flags: 1}}); return err },
		"FormTooLarge": func() error { _, err := ch.Flag(make([]cmtp.FlagItem, cmtp.MaxFlags+1)); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrParameter) {
			t.Errorf("%s: error %v, want ErrParameter", name, err)
		}
	}
	if n, err := ch.Delete(make([]uint64, cmtp.MaxDelete)); n != 0 || err != nil {
		t.Errorf("behind them: %d, %v", n, err)
	}
}

// More messages than are asked for at a time come each in its order, refusals among them, and the
// next is asked for before the one before was read.
func TestChannel_FetchAll(t *testing.T) {
	const n = 300
	ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Fetch, func(c *clienttest.Conn, cmd cmtp.Command) error {
		q, err := cmtp.ParseFetchQuery(cmd.Fixed)
		switch {
		case err != nil:
			return err
		case q.Number%7 == 3:
			return c.Fail(cmtp.StatusNoMessage, "gone")
		}
		return c.Done(bytes.Repeat([]byte{byte(q.Number)}, int(q.Number)*50))
	})
	var seen uint64
	err := ch.FetchAll(numbers(n), func(f client.Fetched) error {
		seen++
		if f.Number != seen {
			t.Fatalf("message %d comes as number %d", f.Number, seen)
		}
		if f.Number%7 == 3 {
			refused(t, f.Err, cmtp.StatusNoMessage)
			return nil
		}
		if f.Err != nil || f.Size != seen*50 {
			t.Fatalf("message %d: %d bytes, %v", seen, f.Size, f.Err)
		}
		if seen%5 == 0 {
			return nil // and leave it unread
		}
		b, err := io.ReadAll(f.Body)
		if err != nil || uint64(len(b)) != seen*50 || slices.ContainsFunc(b, func(c byte) bool { return c != byte(seen) }) {
			t.Errorf("message %d has %d bytes, %v", seen, len(b), err)
		}
		return nil
	})
	if err != nil || seen != n {
		t.Errorf("%d messages, %v", seen, err)
	}
	if _, err := ch.Fetch(cmtp.FetchQuery{Number: 3}, io.Discard); err == nil {
		t.Error("no refusal of a single one")
	} else {
		refused(t, err, cmtp.StatusNoMessage)
	}
	if n, err := ch.Fetch(cmtp.FetchQuery{Number: 2, Length: 100}, io.Discard); n != 100 || err != nil {
		t.Errorf("at the limit: %d, %v", n, err)
	}
	if _, err := ch.Fetch(cmtp.FetchQuery{Number: 2, Length: 99}, io.Discard); !errors.Is(err, cmtp.ErrTooLarge) {
		t.Errorf("one past the limit: %v", err)
	}
}

// As many are under way at a time as may be, and no more: a server that answers none before it has seen all of those is
// not waited for.
func TestChannel_FetchAll_Ahead(t *testing.T) {
	for _, tt := range []struct {
		length uint64
		ahead  int
	}{{0, 8192}, {2 << 10, 8192}, {2<<10 + 1, 8189}, {32 << 10, 512}, {256 << 10, 64}, {1 << 20, 64}, {math.MaxUint64, 64}} {
		t.Run(fmt.Sprint(tt.length), func(t *testing.T) {
			waiting, open := 0, false
			ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error {
				if waiting++; !open && waiting < tt.ahead {
					return nil
				}
				for open = true; waiting > 0; waiting-- {
					if err := c.Done(nil); err != nil {
						return err
					}
				}
				return nil
			})
			asked, answered, most := 0, 0, 0
			err := ch.FetchAll(func(yield func(cmtp.FetchQuery) bool) {
				for range 2 * tt.ahead {
					if asked++; !yield(cmtp.FetchQuery{Length: tt.length}) {
						return
					}
				}
			}, func(f client.Fetched) error {
				most = max(most, asked-answered)
				answered++
				return f.Err
			})
			if err != nil || answered != 2*tt.ahead || most != tt.ahead {
				t.Errorf("%d answers, %d requests ahead, want %d, %v", answered, most, tt.ahead, err)
			}
		})
	}
}

// A narrow connection takes something, and the next thing only when something was read of it.
type narrow struct {
	net.Conn
	on   atomic.Bool
	room chan struct{} // closed once something was read
	once sync.Once
}

func (n *narrow) Write(b []byte) (int, error) {
	if !n.on.Load() || len(b) <= 1<<14 {
		return n.Conn.Write(b)
	}
	k, err := n.Conn.Write(b[:1<<14])
	if err != nil {
		return k, err
	}
	select {
	case <-n.room:
	case <-time.After(long):
		return k, os.ErrDeadlineExceeded
	}
	m, err := n.Conn.Write(b[1<<14:])
	return k + m, err
}

func (n *narrow) Read(b []byte) (int, error) {
	k, err := n.Conn.Read(b)
	if n.on.Load() {
		n.once.Do(func() { close(n.room) })
	}
	return k, err
}

// Requests of which a connection does not take all before answers are read are not waited for.
func TestChannel_FetchAll_Narrow(t *testing.T) {
	line := &narrow{room: make(chan struct{})}
	ch := boxed(t, client.Dialer{Timeout: long, Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		line.Conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return line, err
	}}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error { return c.Done([]byte("m")) })
	line.on.Store(true)
	n := 0
	err := ch.FetchAll(func(yield func(cmtp.FetchQuery) bool) {
		for range 8192 {
			if !yield(cmtp.FetchQuery{Length: 1}) {
				return
			}
		}
	}, func(f client.Fetched) error { n++; return f.Err })
	if err != nil || n != 8192 {
		t.Errorf("%d answers, %v", n, err)
	}
}

// A server that answers what it does not read holds nobody.
func TestChannel_FetchAll_Unread(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	ch := boxed(t, client.Dialer{Timeout: 4 * short, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		}
		return c, err
	}}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error {
		for range 8192 {
			if err := c.Done(nil); err != nil {
				return err
			}
		}
		<-over
		return io.EOF
	})
	err := ch.FetchAll(func(yield func(cmtp.FetchQuery) bool) {
		for yield(cmtp.FetchQuery{}) {
		}
	}, func(f client.Fetched) error { return f.Err })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v, want a timeout", err)
	}
}

// An error of the caller's, or a server that ends the session, ends it and the channel.
func TestChannel_FetchAll_Ends(t *testing.T) {
	full := errors.New("the disk is full")
	for name, tt := range map[string]struct {
		answer func(c *clienttest.Conn) error
		want   error
	}{
		"Callback": {func(c *clienttest.Conn) error { return c.Done(make([]byte, 100)) }, full},
		"Hangup":   {func(c *clienttest.Conn) error { return io.EOF }, io.ErrUnexpectedEOF},
		"Within": {func(c *clienttest.Conn) error {
			c.Reply(append(head(200, 100), 1, 2, 3))
			return io.EOF
		}, io.ErrUnexpectedEOF},
		"Closing": {func(c *clienttest.Conn) error { return c.Fail(cmtp.StatusClosing, "bye") }, &cmtp.StatusError{}},
		"TooLong": {endless(head(200, 1<<20+1)), cmtp.ErrTooLarge},
		"Huge":    {endless(head(200, math.MaxUint64)), cmtp.ErrTooLarge},
		"NoReply": {func(c *clienttest.Conn) error { return c.Reply(head(300, 0)) }, cmtp.ErrReply},
	} {
		t.Run(name, func(t *testing.T) {
			ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error { return tt.answer(c) })
			err := ch.FetchAll(numbers(100), func(f client.Fetched) error {
				if f.Err != nil {
					return f.Err
				}
				if _, err := io.Copy(io.Discard, f.Body); err != nil {
					return err
				}
				return full
			})
			var status *cmtp.StatusError
			if ok := errors.Is(err, tt.want); !ok && (name != "Closing" || !errors.As(err, &status)) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if _, err := ch.Mailbox(); !errors.Is(err, client.ErrClosed) {
				t.Errorf("behind it: %v", err)
			}
		})
	}
}

// A message that drips does not hold a client for as long as it is long.
func TestChannel_Fetch_Dripping(t *testing.T) {
	ch := boxed(t, client.Dialer{Timeout: 4 * short}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error {
		every := time.NewTicker(short)
		defer every.Stop()
		err := c.Reply(head(200, 1<<40))
		for err == nil {
			<-every.C
			_, err = c.Write([]byte{1})
		}
		return err
	})
	began := time.Now()
	_, err := ch.Fetch(cmtp.FetchQuery{Length: 1 << 40}, io.Discard)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout", err)
	}
	if took := time.Since(began); took > 12*short {
		t.Errorf("took %v with a timeout of %v", took, 4*short)
	}
}

// Fetching takes no memory for what is announced, nor for what goes through.
func TestChannel_Fetch_Memory(t *testing.T) {
	const size = 64 << 20
	ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Fetch, func(c *clienttest.Conn, _ cmtp.Command) error {
		b := make([]byte, 16<<10)
		err := c.Reply(head(200, size))
		for sent := 0; sent < size && err == nil; sent += len(b) {
			err = c.Reply(b)
		}
		return err
	})
	cmtptest.Bounded(t, size/2, func() { // the server's side of TLS included, which allocates more under the race detector
		if n, err := ch.Fetch(cmtp.FetchQuery{Length: size}, io.Discard); n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// A page that is not an answer to the question ends the channel.
func TestChannel_Pages_Lies(t *testing.T) {
	gone := func(number, change uint64) cmtp.Entry {
		return cmtp.Entry{Number: number, Change: change, Removed: true}
	}
	there := func(number, change uint64) cmtp.Entry { return cmtp.Entry{Number: number, Change: change} }
	list := func(ch *client.Channel) error { _, err := ch.List(cmtp.ListQuery{Number: 5, Count: 2}); return err }
	down := func(ch *client.Channel) error {
		_, err := ch.List(cmtp.ListQuery{Number: 5, Count: 2, Down: true})
		return err
	}
	changes := func(ch *client.Channel) error {
		_, err := ch.Changes(cmtp.ChangesQuery{Change: 10, Count: 2})
		return err
	}
	tests := map[string]struct {
		verb cmtp.Verb
		do   func(*client.Channel) error
		page cmtp.Page
		ok   bool
	}{
		"Up":          {cmtp.List, list, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(6, 9), there(7, 3)}}, true},
		"NotAbove":    {cmtp.List, list, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(5, 9)}}, false},
		"Unordered":   {cmtp.List, list, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(7, 9), there(6, 3)}}, false},
		"TooMany":     {cmtp.List, list, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(6, 9), there(7, 9), there(8, 9)}}, false},
		"RemovedThen": {cmtp.List, list, cmtp.Page{Next: 1, Entries: []cmtp.Entry{gone(6, 9)}}, false},
		"Down":        {cmtp.List, down, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(4, 9), there(3, 3)}}, true},
		"Upwards":     {cmtp.List, down, cmtp.Page{Next: 1, Entries: []cmtp.Entry{there(3, 9), there(4, 3)}}, false},
		"After":       {cmtp.Changes, changes, cmtp.Page{Next: 20, Entries: []cmtp.Entry{gone(6, 11), there(1, 20)}}, true},
		"Before":      {cmtp.Changes, changes, cmtp.Page{Next: 20, Entries: []cmtp.Entry{gone(6, 10)}}, false},
		"Anew":        {cmtp.Changes, changes, cmtp.Page{Next: 9, Entries: []cmtp.Entry{gone(6, 8)}}, true},
		"Endless":     {cmtp.Changes, changes, cmtp.Page{Next: 20, More: true}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ch := boxed(t, client.Dialer{Timeout: long}, tt.verb, func(c *clienttest.Conn, _ cmtp.Command) error { return c.Done(tt.page.Append(nil)) })
			if err := tt.do(ch); (err == nil) != tt.ok || err != nil && !errors.Is(err, cmtp.ErrReply) {
				t.Errorf("error %v", err)
			}
			if err := tt.do(ch); errors.Is(err, client.ErrClosed) == tt.ok {
				t.Errorf("behind it: %v", err)
			}
		})
	}
}

// A wait ends with its context: the answer is read, and the channel goes on.
func TestChannel_Wait_Cancel(t *testing.T) {
	asked := make(chan struct{}, 1)
	page := cmtp.Page{Next: 7}
	ch := boxed(t, client.Dialer{Timeout: long}, cmtp.Wait, func(c *clienttest.Conn, _ cmtp.Command) error {
		asked <- struct{}{}
		if _, err := c.In.Peek(1); err != nil {
			return err
		}
		return c.Done(page.Append(nil))
	})
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-asked
			cancel()
		}()
		p, err := ch.Wait(ctx, cmtp.WaitQuery{Seconds: cmtp.MaxWait})
		if err != nil || p.Next != 7 {
			t.Fatalf("%d: %+v, %v", i, p, err)
		}
	}
	if _, err := ch.Login(bob); err != nil {
		t.Errorf("behind it: %v", err)
	}
}

// A wait is answered later than any other command may be, but not by a server that is silent
// beyond its seconds.
func TestChannel_Wait_Silence(t *testing.T) {
	ch := boxed(t, client.Dialer{Timeout: short}, cmtp.Wait, func(c *clienttest.Conn, _ cmtp.Command) error {
		if _, err := c.In.Peek(1); err != nil {
			return err
		}
		return fmt.Errorf("the client has ended the wait")
	})
	began := time.Now()
	_, err := ch.Wait(t.Context(), cmtp.WaitQuery{Seconds: 1})
	if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) < time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
