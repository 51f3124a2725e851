package control

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
)

// invitation asks for one.
type invitation struct {
	Address address.Address `json:"address"`
	Reset   bool            `json:"reset"`
	Life    time.Duration   `json:"life"` // nanoseconds
}

// element is a blinded or an evaluated one.
type element struct {
	Element []byte `json:"element"`
}

func (e *element) array() ([32]byte, error) {
	if len(e.Element) != 32 {
		return [32]byte{}, fmt.Errorf("an element of %d bytes, want 32", len(e.Element))
	}
	return [32]byte(e.Element), nil
}

func handleInvitations(mux *http.ServeMux, users Users) {
	mux.HandleFunc("GET /invitations", func(w http.ResponseWriter, _ *http.Request) {
		all, err := users.Invitations()
		answer(w, all, err)
	})
	mux.HandleFunc("POST /invitations", func(w http.ResponseWriter, req *http.Request) {
		var i invitation
		if !read(w, req, &i) {
			return
		}
		about(req, "account", i.Address.String(), "reset", i.Reset)
		made, err := users.Invite(i.Address, i.Reset, i.Life)
		answer(w, made, err)
	})
	mux.HandleFunc("DELETE /invitations/{address}", with(func(at address.Address, _ *http.Request) (any, error) {
		return nil, users.Revoke(at)
	}))
	mux.HandleFunc("POST /users/{address}/evaluations", func(w http.ResponseWriter, req *http.Request) {
		var blinded element
		if !read(w, req, &blinded) {
			return
		}
		with(func(at address.Address, _ *http.Request) (any, error) {
			b, err := blinded.array()
			if err != nil {
				return nil, err
			}
			evaluated, err := users.Evaluate(at, b)
			return element{evaluated[:]}, err
		})(w, req)
	})
}

// Evaluate returns a blinded element under an account's key for it. Nobody is charged an
// attempt: who may ask here has the key.
func (c *Client) Evaluate(at address.Address, blinded [32]byte) ([32]byte, error) {
	out, err := ask[element](c, http.MethodPost, userPath(at)+"/evaluations", element{blinded[:]})
	if err != nil {
		return [32]byte{}, err
	}
	return out.array()
}

// Invite makes an invitation.
func (c *Client) Invite(at address.Address, reset bool, life time.Duration) (*account.Invited, error) {
	return ask[*account.Invited](c, http.MethodPost, "/invitations", invitation{at, reset, life})
}

// Invitations returns those that are open.
func (c *Client) Invitations() ([]*account.Invitation, error) {
	return ask[[]*account.Invitation](c, http.MethodGet, "/invitations", nil)
}

// Revoke ends an invitation.
func (c *Client) Revoke(at address.Address) error {
	return c.do(http.MethodDelete, "/invitations/"+url.PathEscape(at.String()), nil, nil)
}
