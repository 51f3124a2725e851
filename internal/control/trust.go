package control

import (
	"net/http"
	"net/url"

	"cmtpd/internal/address"
	"cmtpd/internal/trust"
)

// Trust is what the command line does to what is known of other servers' keys. trust.Store is
// one, and so is what Client.Trust returns.
type Trust interface {
	List() ([]trust.Entry, error)
	Show(domain address.Domain) (trust.Entry, error)
	Accept(domain address.Domain, f trust.Fingerprint) error
	Pin(domain address.Domain, key trust.Public) error
	Forget(domain address.Domain) error
}

// HandleTrust lets a server that NewServer has made also show and change what is known of other servers'
// keys. It is called before the server serves.
func HandleTrust(srv *http.Server, known Trust) {
	mux := http.NewServeMux()
	mux.Handle("/", srv.Handler)
	mux.HandleFunc("GET /trust", func(w http.ResponseWriter, _ *http.Request) {
		all, err := known.List()
		answer(w, all, err)
	})
	mux.HandleFunc("GET /trust/{domain}", withDomain(func(domain address.Domain, _ *http.Request) (any, error) {
		return known.Show(domain)
	}))
	mux.HandleFunc("DELETE /trust/{domain}", withDomain(func(domain address.Domain, _ *http.Request) (any, error) {
		return nil, known.Forget(domain)
	}))
	mux.HandleFunc("PUT /trust/{domain}/accepted", withDomain(func(domain address.Domain, req *http.Request) (any, error) {
		about(req, "key", req.FormValue("key"))
		f, err := trust.ParseFingerprint(req.FormValue("key"))
		if err != nil {
			return nil, err
		}
		return nil, known.Accept(domain, f)
	}))
	mux.HandleFunc("PUT /trust/{domain}/pinned", withDomain(func(domain address.Domain, req *http.Request) (any, error) {
		about(req, "key", req.FormValue("key"))
		key, err := trust.ParseKey(req.FormValue("key"))
		if err != nil {
			return nil, err
		}
		return nil, known.Pin(domain, key)
	}))
	srv.Handler = mux
}

// withDomain makes a handler of an operation on one domain.
func withDomain(do func(address.Domain, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		domain, err := address.ParseDomain(req.PathValue("domain"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		v, err := do(domain, req)
		answer(w, v, err)
	}
}

// Trust returns what the daemon knows of other servers' keys.
func (c *Client) Trust() Trust { return remoteTrust{c} }

type remoteTrust struct{ *Client }

func trustPath(domain address.Domain, more string, key string) string {
	path := "/trust/" + url.PathEscape(domain.String()) + more
	if key != "" {
		path += "?" + url.Values{"key": {key}}.Encode()
	}
	return path
}

func (r remoteTrust) List() ([]trust.Entry, error) {
	return ask[[]trust.Entry](r.Client, http.MethodGet, "/trust", nil)
}

func (r remoteTrust) Show(domain address.Domain) (trust.Entry, error) {
	return ask[trust.Entry](r.Client, http.MethodGet, trustPath(domain, "", ""), nil)
}

func (r remoteTrust) Accept(domain address.Domain, f trust.Fingerprint) error {
	return r.do(http.MethodPut, trustPath(domain, "/accepted", f.String()), nil, nil)
}

func (r remoteTrust) Pin(domain address.Domain, key trust.Public) error {
	return r.do(http.MethodPut, trustPath(domain, "/pinned", key.Base64()), nil, nil)
}

func (r remoteTrust) Forget(domain address.Domain) error {
	return r.do(http.MethodDelete, trustPath(domain, "", ""), nil, nil)
}
