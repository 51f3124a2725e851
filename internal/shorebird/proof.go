package shorebird

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
)

// A proof is what the reader is told of where a letter comes from.
type proof struct {
	provenance.Verdict
	known  provenance.Known
	claims bool  // something that is signed came with it
	asked  error // why nothing could be learnt of the source's keys; nil: it was, or nobody asked
}

// acquainted returns what is remembered of a message's source. Only with check is anybody
// asked: a source's domain that sees when its keys are asked for knows when a letter is
// read. What cannot be learnt is no reason not to show the letter.
func (r *run) acquainted(ctx context.Context, h home, reader address.Address, l *cmtp.Layout, check bool) (*proof, error) {
	p := &proof{claims: claims(l.Log)}
	source, err := provenance.SourceOf(&l.Header)
	if err != nil || !p.claims {
		return p, nil
	}
	if p.known, p.asked = r.remembered(h, source); check && p.asked == nil {
		p.known, p.asked = r.learnt(ctx, reader, source, p.known)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p, nil
}

// judge says what the message, of which l is the layout, proves.
func (p *proof) judge(l *cmtp.Layout, message io.Reader) error {
	var digest [32]byte
	if p.claims {
		var err error
		if digest, err = coreDigest(message); err != nil {
			return fmt.Errorf("reading the message again: %w", err)
		}
	}
	p.Verdict = provenance.Judge(&l.Header, l.Log, digest, p.known)
	return nil
}

// claims reports whether a log has an entry that is meant to prove something.
func claims(log []byte) bool {
	return slices.ContainsFunc(cmtp.LogEntries(log), func(e string) bool { return crypt.IsSender(e) || crypt.IsOrigin(e) })
}

// coreDigest reads a whole message.
func coreDigest(r io.Reader) (sum [32]byte, err error) {
	m, err := cmtp.NewMessageReader(bufio.NewReaderSize(r, 64<<10), math.MaxInt64)
	if err == nil {
		_, err = io.Copy(io.Discard, m)
	}
	if err != nil {
		return sum, err
	}
	return m.Digest()
}

// remembered returns what is known of a source without asking anybody.
func (r *run) remembered(h home, source address.Address) (k provenance.Known, err error) {
	met, err := newContacts(h.data, r.Now).load()
	if err != nil {
		return k, err
	}
	servers, err := newKnownServers(h.data, r.Now).load()
	if err != nil {
		return k, err
	}
	base := source
	base.Account = base.Account.Base()
	for _, name := range []address.Address{source, base} { // as contacts are found, see whose
		if key, ok := parseKey(met[name.String()].Key); ok {
			k.Keys = []provenance.Key{{PublicKey: key}}
			break
		}
	}
	if key, ok := parseKey(servers[source.Domain.String()].Key); ok {
		k.Servers = []crypt.PublicKey{key}
	}
	return k, nil
}

// learnt asks for the keys of a source, by the way by which they are found to write to it.
// Where that fails, what is remembered stands.
func (r *run) learnt(ctx context.Context, reader, source address.Address, remembered provenance.Known) (provenance.Known, error) {
	n, h, err := r.network()
	if err != nil {
		return remembered, err
	}
	defer n.close()
	f := r.finder(n, h, reader, false)
	f.fresh = true // the letter may be signed with a key that is newer than what the server remembers
	a, err := f.find(ctx, source)
	if err != nil {
		return remembered, err
	}
	known := provenance.Known{Keys: []provenance.Key{{PublicKey: a.key}}, Servers: []crypt.PublicKey{a.server}}
	if a.history != nil {
		known.Keys, known.Whole = provenance.KeysOf(a.history), true
	}
	return known, nil
}

// rows tell a person of the proof. Nothing here says who has written the letter.
func (p *proof) rows(checked bool) [][2]string {
	var rows [][2]string
	switch p.Kind {
	case provenance.BySender, provenance.ByDomain:
		rows = [][2]string{{"Proof", p.Text + "; that is who submitted it, not who wrote it"}, {"Key", p.Key.String()}}
	case provenance.False:
		rows = [][2]string{{"WARNING", p.Text + ": do not believe that it is from there"}}
	default:
		text := p.Text
		if p.claims && !checked {
			text += "; --check asks for keys"
		}
		rows = [][2]string{{"Proof", text}}
	}
	if p.asked != nil {
		rows = append(rows, [2]string{"Not checked", letter.Line(strings.Join(strings.Fields(p.asked.Error()), " "))})
	}
	return rows
}
