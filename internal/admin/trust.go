package admin

import (
	"errors"
	"io"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/trust"
)

// Trust shows and changes what one server knows of other servers' keys.
type Trust struct {
	control.Trust
	lock io.Closer // nil where a daemon runs
}

// OpenTrust returns what the server that cfg describes knows of other servers' keys: through the
// daemon where one runs, and else directly, with the daemon kept from starting until Close.
func OpenTrust(cfg *config.Config) (*Trust, error) {
	lock, err := datadir.Lock(cfg)
	if errors.Is(err, datadir.ErrRunning) {
		return &Trust{Trust: control.Dial(cfg.ControlSocket()).Trust()}, nil
	}
	if err != nil {
		return nil, err
	}
	store, err := trust.Open(cfg.TrustDir(), trust.Options{FS: durable.OS})
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Trust{Trust: store, lock: lock}, nil
}

// Close lets a daemon start again.
func (t *Trust) Close() error {
	if t.lock == nil {
		return nil
	}
	return t.lock.Close()
}

// A TrustView is what is known of a domain as it is shown, and the form of --json.
type TrustView struct {
	Domain    string         `json:"domain"` // empty where the file is damaged
	File      string         `json:"file"`
	Damage    string         `json:"damage,omitempty"`
	Holding   []HoldView     `json:"holding"`
	CMTP1     bool           `json:"cmtp1"`
	Enforce   time.Time      `json:"enforce,omitzero"`
	Keys      []TrustKeyView `json:"keys"`
	Successor *TrustKeyView  `json:"successor,omitempty"`
	Candidate *TrustKeyView  `json:"candidate,omitempty"`
	Waiting   []TrustKeyView `json:"waiting"` // published, not shown yet, and not trusted yet
	Actions   []ActionView   `json:"actions"`
}

// A TrustKeyView is a key of another server.
type TrustKeyView struct {
	Key         string    `json:"key"` // base64
	Fingerprint string    `json:"fingerprint"`
	Provenance  string    `json:"provenance,omitempty"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last,omitzero"`
}

// A HoldView is why a server is held.
type HoldView struct {
	Key         string    `json:"key,omitempty"` // base64; empty where the domain is held, whatever key is shown
	Fingerprint string    `json:"fingerprint,omitempty"`
	Why         string    `json:"why"`
	Text        string    `json:"text"`
	Since       time.Time `json:"since,omitzero"`
	Last        time.Time `json:"last,omitzero"`
	Until       time.Time `json:"until,omitzero"`
}

// An ActionView is something that the operator did.
type ActionView struct {
	At          time.Time `json:"at"`
	Do          string    `json:"do"`
	Key         string    `json:"key,omitempty"` // base64
	Fingerprint string    `json:"fingerprint,omitempty"`
}

// ViewTrust returns what is shown of a domain.
func ViewTrust(e trust.Entry) TrustView {
	v := TrustView{File: e.File, Damage: e.Damage, Holding: []HoldView{}, Keys: []TrustKeyView{}, Waiting: []TrustKeyView{}, Actions: []ActionView{}}
	for _, h := range e.Holding {
		hold := HoldView{Why: string(h.Why), Text: h.Why.Text(), Since: h.Since, Last: h.Last, Until: h.Until}
		if h.Key != (trust.Public{}) {
			hold.Key, hold.Fingerprint = h.Key.Base64(), h.Key.String()
		}
		v.Holding = append(v.Holding, hold)
	}
	s := e.State
	if s == nil {
		return v
	}
	v.Domain, v.CMTP1, v.Enforce = s.Domain.String(), s.CMTP1, s.Enforce
	for _, k := range s.Keys {
		v.Keys = append(v.Keys, TrustKeyView{k.Key.Base64(), k.Key.String(), k.Provenance.String(), k.First, k.Last})
	}
	v.Successor, v.Candidate = viewSuccessor(s.Successor), viewSuccessor(s.Candidate)
	for _, p := range s.Pending {
		if p.Held.IsZero() {
			v.Waiting = append(v.Waiting, TrustKeyView{Key: p.Key.Base64(), Fingerprint: p.Key.String(), First: p.First, Last: p.Last})
		}
	}
	for _, a := range s.Actions {
		action := ActionView{At: a.At, Do: a.Do}
		if a.Key != (trust.Public{}) {
			action.Key, action.Fingerprint = a.Key.Base64(), a.Key.String()
		}
		v.Actions = append(v.Actions, action)
	}
	return v
}

func viewSuccessor(s *trust.Successor) *TrustKeyView {
	if s == nil {
		return nil
	}
	return &TrustKeyView{Key: s.Key.Base64(), Fingerprint: s.Key.String(), Provenance: s.Provenance.String(), First: s.First}
}
