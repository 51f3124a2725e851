package oprf

import "github.com/cloudflare/circl/group"

// KeyWithInfo derives a key under the info that a vector names.
func KeyWithInfo(seed []byte, info string) (*Key, error) { return keyFromSeed(seed, info) }

// BlindWith blinds with the scalar that a vector fixes.
func BlindWith(input, blind []byte) (*Request, Element, error) {
	s := group.Ristretto255.NewScalar()
	if err := s.UnmarshalBinary(blind); err != nil {
		return nil, Element{}, err
	}
	return blindWith(input, s)
}

// Reencode decodes an element and encodes it again.
func (e Element) Reencode() (Element, error) {
	p, err := e.decode()
	if err != nil {
		return Element{}, err
	}
	return encode(p)
}

// Secrets returns what a request has to hide, in its own memory.
func (r *Request) Secrets() (input []byte, blindIsZero bool) {
	return r.state().input, r.state().blind.IsZero()
}
