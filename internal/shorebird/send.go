package shorebird

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// maxText bounds the text of a letter, in bytes: it is read from a pipe, and held
// in memory. Anything longer is better attached.
const maxText = 16 << 20

type sendOptions struct {
	subject, from, replyTo, text string
	attach, cc                   []string
	direct, unkept, noCopy       bool
}

// SendReport is what send prints with --json, also when some copies were not sent.
type SendReport struct {
	From   string       `json:"from"`
	Sent   []SentReport `json:"sent"`
	Failed []FailReport `json:"failed"`
	// Outbox is the letter's number there, where copies are kept that were not sent.
	Outbox int64 `json:"outbox,omitempty"`
	// Warning is reply's, where nothing proves whom the answered letter is from.
	Warning string `json:"warning,omitempty"`
	// Copy is what became of the copy that the sender keeps: kept, later, where the outbox has it still, or refused, with
	// why; absent where none was to be kept, or nobody has got the letter yet.
	Copy      string `json:"copy,omitempty"`
	CopyError string `json:"copy_error,omitempty"`
}

// SentReport is a copy that the recipient's server has for good.
type SentReport struct {
	KeysReport
	Bytes  int64 `json:"bytes"`            // on the wire
	Queued bool  `json:"queued,omitempty"` // it waits there to be delivered to another server
	// Receipt is what the server has signed, and was checked; CMTP 0.01 has none.
	Receipt *ReceiptReport `json:"receipt,omitempty"`
}

// ReceiptReport is a receipt (docs/protocol.md section 17.5).
type ReceiptReport struct {
	Digest string    `json:"digest"` // hex, of the message's core
	Time   time.Time `json:"time"`
	Commit uint64    `json:"commit"` // its number in the server's spool
	Hash   string    `json:"hash"`   // hex, of that commit
}

func newSentReport(a *answer, size int64, sent *client.Sent) SentReport {
	v := SentReport{KeysReport: a.report(), Bytes: size}
	if sent != nil {
		v.Queued = sent.Queued
		v.Receipt = &ReceiptReport{
			Digest: hex.EncodeToString(sent.Receipt.Digest[:]), Time: sent.Receipt.When.Time(),
			Commit: sent.Receipt.Commit, Hash: hex.EncodeToString(sent.Receipt.Hash[:]),
		}
	}
	return v
}

// FailReport is a copy that was not sent.
type FailReport struct {
	Address string `json:"address"`
	diagnosis
	Kept bool `json:"kept,omitempty"` // the outbox has it, and it goes later
}

func (r *run) send(ctx context.Context, args []string, o sendOptions) error {
	p, err := r.office(o.direct, o.unkept)
	if err != nil {
		return err
	}
	defer p.close()
	p.noCopy = o.noCopy
	d, err := newDraft(args, o, p.net.settings)
	if err != nil {
		return err
	}
	if r.composes(&o) {
		return p.compose(ctx, d)
	}
	if len(d.Recipients) == 0 {
		return usage(errors.New("there is nobody whom the letter is to"))
	}
	if d.Text, err = r.text(ctx, o.text); err != nil {
		return err
	}
	if r.types(&o) {
		return p.deliverTyped(ctx, d)
	}
	return p.deliver(ctx, d)
}

// types reports whether a letter's text is typed at the terminal. Nobody else has it then.
func (r *run) types(o *sendOptions) bool {
	return (o.text == "" || o.text == "-") && r.InIsTerminal && !r.json
}

// deliverTyped sends a letter that was typed. What is not sent is kept as a draft, where the account can keep one.
func (o *office) deliverTyped(ctx context.Context, d *cache.Draft) error {
	box, err := o.boxOf(ctx, d)
	if box != nil && err == nil && strings.TrimSpace(d.Text) != "" {
		err = box.SaveDraft(ctx, d)
	}
	if err != nil {
		o.run.note("The letter is not kept as a draft: %v", err)
	}
	return o.deliverDraft(ctx, d)
}

// A sender sends letters from one address.
type sender struct {
	*network
	from    address.Address
	account *desk       // whom from's own server wants to see proven; nil when that is not asked for
	mu      *sync.Mutex // held by who calls servers, of which the network keeps account
}

// submitter returns the account that proves to be the source where a letter goes to
// from's own server, which takes its domains' names from nobody else (docs/protocol.md
// section 19.7). Every other server takes the source for a claim.
func (f *finder) submitter(ctx context.Context, from address.Address, answers []*answer) (*desk, error) {
	known, err := f.known.load()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(answers, func(a *answer) bool { return a.isHome(from, known) }) {
		return nil, nil
	}
	_, err = f.signIn(ctx)
	return f.desk, err
}

// isHome reports whether the answer is from the server of an address, in CMTP 1, or was
// told by the user's own.
func (a *answer) isHome(of address.Address, known map[string]knownServer) bool {
	return a.told != nil || a.history != nil && known[of.Domain.String()].Key == base64Key(a.server)
}

// newDraft returns the letter that a command line asks for, still without its text.
func newDraft(args []string, o sendOptions, s *settings) (*cache.Draft, error) {
	from, err := author(o.from, s)
	if err != nil {
		return nil, err
	}
	to, err := recipients(args)
	if err != nil {
		return nil, err
	}
	d := &cache.Draft{From: from.String(), ReplyTo: o.replyTo, CC: o.cc, Subject: o.subject}
	for _, a := range to {
		d.Recipients = append(d.Recipients, a.String())
	}
	d.NoCopy = o.noCopy
	d.Files, err = attach(o.attach)
	return d, err
}

// author returns whom a letter is from.
func author(from string, s *settings) (address.Address, error) {
	if from != "" {
		a, err := address.Parse(from)
		if err != nil {
			return a, fmt.Errorf("--from: %w", err)
		}
		return a, nil
	}
	if s.Account.IsZero() {
		return s.Account, hint(fmt.Errorf("sending: %w", errNoAccount), "Say who you are with --from ADDRESS, or with account in the configuration file.")
	}
	return s.Account, nil
}

// recipients returns whom a letter is to, each once.
func recipients(args []string) ([]address.Address, error) {
	var to []address.Address
	for _, arg := range args {
		a, err := address.Parse(arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return to, nil
}

// text reads the letter's text: from a file, or from standard input where path is empty or -.
func (r *run) text(ctx context.Context, path string) (string, error) {
	in := r.In
	if path != "" && path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("reading the text: %w", err)
		}
		defer f.Close()
		in = f
	} else if r.InIsTerminal {
		r.note("Write the letter; end with Ctrl-D on a line of its own.")
	}
	text, err := terminal.Interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, maxText+1)) })
	if err != nil {
		return "", fmt.Errorf("reading the text: %w", err)
	}
	if len(text) > maxText {
		return "", hint(fmt.Errorf("%w: it may have %d bytes", errTooMuchText, maxText), "Write it to a file and attach that with -a FILE.")
	}
	return string(text), nil
}

// all asks for every key before anything is sent to anybody.
func (f *finder) all(ctx context.Context, to []address.Address) ([]*answer, error) {
	var answers []*answer
	for _, addr := range to {
		a, err := f.find(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("nothing was sent: %w", err)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// newSendReport tells what became of the copies, and returns the first error.
func newSendReport(from address.Address, parcels []*parcel) (*SendReport, error) {
	v := &SendReport{From: from.String(), Sent: []SentReport{}, Failed: []FailReport{}}
	var failed error
	for _, p := range parcels {
		if p.err == nil {
			v.Sent = append(v.Sent, newSentReport(p.answer, p.size, p.sent))
			continue
		}
		if failed == nil {
			failed = p.err
		}
		v.Failed = append(v.Failed, FailReport{Address: p.answer.address.String(), diagnosis: diagnose(p.err), Kept: p.kept})
	}
	if len(parcels) > 1 && failed != nil {
		failed = fmt.Errorf("%d of %d copies were not sent; the first of them: %w", len(v.Failed), len(parcels), failed)
	}
	return v, failed
}

func (s *SendReport) text(out *bytes.Buffer) {
	queued := false
	for _, a := range s.Sent {
		what := "sent to"
		if a.Queued {
			what = "queued for"
		}
		server := string(a.Trust)
		if a.Home != nil {
			server += ", vouched for by " + a.Home.Vouched.short()
		}
		fmt.Fprintf(out, "%s %s: %d bytes, sealed to %s (server: %s)\n", what, a.Address, a.Bytes, a.Fingerprint, server)
		queued = queued || a.Queued
	}
	if queued {
		fmt.Fprintln(out, "queued: your server delivers it; a report comes to your mailbox if it cannot")
	}
	if len(s.Sent)+len(s.Failed) > 1 {
		s.failures(out)
	}
}

func (s *SendReport) failures(out *bytes.Buffer) {
	for _, f := range s.Failed {
		fmt.Fprintf(out, "not sent to %s: %s\n", f.Address, letter.Line(f.Message))
	}
}

// seal seals the letter to the key in the answer, no other, and signs it where that is right.
func (s *sender) seal(d *letter.Draft, a *answer) (*letter.Message, error) {
	m, err := d.Seal(s.from, a.address, a.key)
	if err != nil {
		return nil, err
	}
	return m, s.sign(m, a)
}

// sign signs a letter that goes to the source's own server, with the key by which the
// account was proven there. Should another device change it at this moment, it was the
// account's all the same.
func (s *sender) sign(m *letter.Message, a *answer) error {
	if s.account == nil {
		return nil
	}
	known, err := s.known.load()
	if err != nil || !a.isHome(s.from, known) {
		return err
	}
	key := find(s.account.held.ring, s.account.used)
	if key == nil {
		return fmt.Errorf("signing the letter: %w", errNoKeys)
	}
	return m.Sign(s.now(), key)
}

// submitTo returns the server that gave the answer, in a channel in which the source's
// account is proven where it has to be.
func (s *sender) submitTo(ctx context.Context, a *answer) (*peer, error) {
	p, err := s.again(ctx, a)
	if err != nil || s.account == nil || !p.user.IsZero() {
		return p, err
	}
	known, err := s.known.load()
	if err != nil || !a.isHome(s.from, known) {
		return p, err
	}
	key := p.key
	if p, err = s.account.proven(ctx); err != nil {
		return nil, err
	}
	if p.key == key { // never called anew in between, which would leave nobody proven
		return p, nil
	}
	return s.again(ctx, a)
}
