// Package control lets the command line tell a running daemon what to change, and ask how it is,
// over a Unix socket in its data directory.
//
// It guarantees that only one process changes the data: whoever holds the
// directory's lock does, and everybody else asks that one. The socket is for
// the owner of the directory. The secrets of users never cross it, and of the server's
// only those that a command line has made itself or is to show: an account's seed on the way
// in, an invitation's code on the way out.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/spool"
	"cmtpd/internal/trust"
)

// Users is what the command line does to accounts. account.Store is one, and so
// is a Client.
type Users interface {
	Add(r account.Registration) (*account.Account, error)
	Get(addr address.Address) (*account.Account, error)
	List() ([]*account.Account, error)
	SetXzibit(r account.Registration) error
	SetDisabled(addr address.Address, disabled bool) error
	Remove(addr address.Address) error
	Evaluate(addr address.Address, blinded [32]byte) ([32]byte, error)
	Invite(addr address.Address, reset bool, life time.Duration) (*account.Invited, error)
	Invitations() ([]*account.Invitation, error)
	Revoke(addr address.Address) error
}

// Spool is what the command line asks of the running daemon's spool. spool.Spool is one.
type Spool interface {
	Stats() spool.Stats
	Damage() []spool.Damage
	RemoveAll(ctx context.Context, ids []spool.ID, by string) (removed int, err error)
}

// maxRemovals is how many messages one request removes: it is answered within the time for that.
const maxRemovals = 4096

// ErrRemovals is why a request for the removal of too many messages is refused.
var ErrRemovals = fmt.Errorf("at most %d messages are removed at once", maxRemovals)

// removals asks for messages to be removed.
type removals struct {
	IDs []spool.ID `json:"ids"`
	By  string     `json:"by"`
}

// SpoolState is what a running daemon knows of its spool.
type SpoolState struct {
	Stats  spool.Stats
	Damage []spool.Damage // what was found at its start and since
}

// codes name the errors that keep their meaning across the socket.
var codes = map[string]error{
	"exists":   account.ErrExists,
	"unknown":  account.ErrUnknown,
	"proof":    account.ErrProof,
	"xzibit":   account.ErrXzibit,
	"foreign":  account.ErrForeign,
	"reserved": account.ErrReserved,
	"failed":   account.ErrFailed,
	"removals": ErrRemovals,

	"statement":   account.ErrStatement,
	"full":        account.ErrHistoryFull,
	"conflict":    account.ErrConflict,
	"seed":        account.ErrNoSeed,
	"invitation":  account.ErrInvitation,
	"invitations": account.ErrInvitations,
	"life":        account.ErrLife,

	"stranger": trust.ErrUnknown,
	"unheld":   trust.ErrNotHeld,
	"pins":     trust.ErrKeys,
	"domains":  trust.ErrFull,
}

// failure is an error on the socket.
type failure struct {
	Code string `json:"code"`
	Text string `json:"error"`
}

const maxRequest = 1 << 20 // bytes

// Listen makes the socket at path. The caller holds the data directory's lock,
// so a socket that is there already is a dead daemon's.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	return l, nil
}

// ErrNobody is what a Client wraps when nobody answers on the socket.
var ErrNobody = errors.New("nobody answers on the control socket")

// NewServer returns a server for the socket that changes users, shows the spool, and removes
// messages from it.
func NewServer(users Users, of Spool) *http.Server {
	mux := http.NewServeMux()
	handleSpool(mux, of)
	handleUsers(mux, users)
	handleInvitations(mux, users)
	return &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
}

func handleSpool(mux *http.ServeMux, of Spool) {
	mux.HandleFunc("GET /spool", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, SpoolState{of.Stats(), of.Damage()}, nil)
	})
	mux.HandleFunc("POST /spool/removals", func(w http.ResponseWriter, req *http.Request) {
		var r removals
		if !read(w, req, &r) {
			return
		}
		if len(r.IDs) > maxRemovals {
			answer(w, nil, ErrRemovals)
			return
		}
		about(req, "by", r.By)
		aboutMessages(req, r.IDs)
		n, err := of.RemoveAll(req.Context(), r.IDs, r.By)
		answer(w, n, err)
	})
}

func handleUsers(mux *http.ServeMux, users Users) {
	mux.HandleFunc("GET /users", func(w http.ResponseWriter, _ *http.Request) {
		all, err := users.List()
		answer(w, all, err)
	})
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, req *http.Request) {
		var r account.Registration
		if !read(w, req, &r) {
			return
		}
		about(req, "account", r.Address.String())
		a, err := users.Add(r)
		answer(w, a, err)
	})
	mux.HandleFunc("GET /users/{address}", with(func(at address.Address, _ *http.Request) (any, error) {
		return users.Get(at)
	}))
	mux.HandleFunc("DELETE /users/{address}", with(func(at address.Address, _ *http.Request) (any, error) {
		return nil, users.Remove(at)
	}))
	mux.HandleFunc("PUT /users/{address}/disabled", with(func(at address.Address, _ *http.Request) (any, error) {
		return nil, users.SetDisabled(at, true)
	}))
	mux.HandleFunc("DELETE /users/{address}/disabled", with(func(at address.Address, _ *http.Request) (any, error) {
		return nil, users.SetDisabled(at, false)
	}))
	mux.HandleFunc("PUT /xzibits", func(w http.ResponseWriter, req *http.Request) {
		var r account.Registration
		if read(w, req, &r) {
			about(req, "account", r.Address.String())
			answer(w, nil, users.SetXzibit(r))
		}
	})
}

// with makes a handler of an operation on one address.
func with(do func(address.Address, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		at, err := address.Parse(req.PathValue("address"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		v, err := do(at, req)
		answer(w, v, err)
	}
}

func read(w http.ResponseWriter, req *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxRequest)).Decode(v)
	if err != nil {
		answer(w, nil, fmt.Errorf("reading the request: %w", err))
	}
	return err == nil
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := failure{Text: err.Error()}
		for code, sentinel := range codes {
			if errors.Is(err, sentinel) {
				f.Code = code
			}
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		v = f
	}
	// The peer is a command on this machine; one that left gets no answer.
	json.NewEncoder(w).Encode(v)
}

// A Client asks the daemon behind a socket. It implements Users.
type Client struct {
	http http.Client
}

// Dial returns a Client of the daemon that listens at path.
func Dial(path string) *Client {
	var d net.Dialer
	return &Client{http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		}},
	}}
}

// A remoteError is an error of the daemon's, with the meaning that it had there.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// do makes one request. in and out may be nil.
func (c *Client) do(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://cmtpd"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the data directory is in use, but %w; "+
			"if a daemon is starting, or another command at work, try again: %w", ErrNobody, err)
	}
	if err != nil {
		return fmt.Errorf("asking the running daemon: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&f); err != nil || f.Text == "" {
			return fmt.Errorf("asking the running daemon: it answered %s", resp.Status)
		}
		return &remoteError{f.Text, codes[f.Code]}
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("asking the running daemon: %w", err)
	}
	return nil
}

func userPath(at address.Address) string { return "/users/" + url.PathEscape(at.String()) }

// Add makes the account that r asks for.
func (c *Client) Add(r account.Registration) (*account.Account, error) {
	return ask[*account.Account](c, http.MethodPost, "/users", r)
}

// Get returns an account.
func (c *Client) Get(at address.Address) (*account.Account, error) {
	return ask[*account.Account](c, http.MethodGet, userPath(at), nil)
}

// List returns all accounts.
func (c *Client) List() ([]*account.Account, error) {
	return ask[[]*account.Account](c, http.MethodGet, "/users", nil)
}

// ask makes one request that is answered with a T.
func ask[T any](c *Client, method, path string, in any) (out T, err error) {
	err = c.do(method, path, in, &out)
	return out, err
}

// Spool returns what the daemon knows of its spool.
func (c *Client) Spool() (SpoolState, error) {
	return ask[SpoolState](c, http.MethodGet, "/spool", nil)
}

// RemoveAll removes messages, as spool.Spool does, but at most 4096 (ErrRemovals).
func (c *Client) RemoveAll(_ context.Context, ids []spool.ID, by string) (removed int, err error) {
	return ask[int](c, http.MethodPost, "/spool/removals", removals{ids, by})
}

// SetXzibit replaces an account's xzibit.
func (c *Client) SetXzibit(r account.Registration) error {
	return c.do(http.MethodPut, "/xzibits", r, nil)
}

// SetDisabled disables or enables an account.
func (c *Client) SetDisabled(at address.Address, disabled bool) error {
	method := http.MethodDelete
	if disabled {
		method = http.MethodPut
	}
	return c.do(method, userPath(at)+"/disabled", nil, nil)
}

// Remove forgets an account.
func (c *Client) Remove(at address.Address) error {
	return c.do(http.MethodDelete, userPath(at), nil, nil)
}
