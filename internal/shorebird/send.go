package shorebird

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/letter"
)

// maxText bounds the text of a letter, in bytes: it is read from a pipe, and held
// in memory. Anything longer is better attached.
const maxText = 16 << 20

type sendOptions struct {
	subject, from, replyTo string
	attach, cc             []string
	direct                 bool
}

// SendReport is what send prints with --json, also when some copies were not sent.
type SendReport struct {
	From   string       `json:"from"`
	Sent   []SentReport `json:"sent"`
	Failed []FailReport `json:"failed"`
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
}

func (r *run) send(ctx context.Context, args []string, o sendOptions) error {
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	from, to, err := envelope(args, o.from, n.settings)
	if err != nil {
		return err
	}
	files, err := openFiles(o.attach)
	defer closeFiles(files)
	if err != nil {
		return err
	}
	draft := &letter.Draft{Time: r.Now(), Subject: o.subject, ReplyTo: o.replyTo, CC: o.cc}
	if draft.Text, err = r.text(ctx); err != nil {
		return err
	}
	find := r.finder(n, h, from, o.direct)
	answers, err := find.all(ctx, to)
	if err != nil {
		return err
	}
	s := &sender{network: n, from: from}
	if s.account, err = find.submitter(ctx, from, answers); err != nil {
		return fmt.Errorf("nothing was sent: %w", err)
	}
	return r.sendAll(ctx, s, draft, files, answers)
}

// A sender sends letters from one address.
type sender struct {
	*network
	from    address.Address
	account *desk // whom from's own server wants to see proven; nil when that is not asked for
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

// envelope returns whom a letter is from and, each once, whom it is to.
func envelope(args []string, from string, s *settings) (address.Address, []address.Address, error) {
	source := s.Account
	if from != "" {
		var err error
		if source, err = address.Parse(from); err != nil {
			return source, nil, fmt.Errorf("--from: %w", err)
		}
	}
	if source.IsZero() {
		return source, nil, hint(fmt.Errorf("sending: %w", errNoAccount), "Say who you are with --from ADDRESS, or with account in the configuration file.")
	}
	var to []address.Address
	for _, arg := range args {
		a, err := address.Parse(arg)
		if err != nil {
			return source, nil, err
		}
		if !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return source, to, nil
}

func openFiles(paths []string) ([]*letter.File, error) {
	var files []*letter.File
	for _, path := range paths {
		f, err := letter.OpenFile(path)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeFiles(files []*letter.File) {
	for _, f := range files {
		f.Close()
	}
}

// text reads the letter's text from standard input.
func (r *run) text(ctx context.Context) ([]byte, error) {
	if r.InIsTerminal {
		r.note("Write the letter; end with Ctrl-D on a line of its own.")
	}
	text, err := interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(r.In, maxText+1)) })
	if err != nil {
		return nil, fmt.Errorf("reading the text: %w", err)
	}
	if len(text) > maxText {
		return nil, hint(fmt.Errorf("%w: it may have %d bytes", errTooMuchText, maxText), "Write it to a file and attach that with -a FILE.")
	}
	return text, nil
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

// sendAll sends everybody a copy, and goes on where one was not taken.
func (r *run) sendAll(ctx context.Context, s *sender, d *letter.Draft, files []*letter.File, answers []*answer) error {
	total, passes := int64(0), int64(2*len(answers)) // sealing reads a file twice
	if s.account != nil {
		passes += int64(len(answers)) // and signing once more
	}
	for _, f := range files {
		total += passes * f.Attachment().Size
	}
	bar := r.progress(ctx, "sending", total)
	for _, f := range files {
		a := f.Attachment()
		a.Data = bar.watch(a.Data)
		d.Attachments = append(d.Attachments, a)
	}
	report := SendReport{From: s.from.String(), Sent: []SentReport{}, Failed: []FailReport{}}
	var failed error
	for _, a := range answers {
		size, sent, err := s.sendOne(ctx, d, a)
		switch {
		case err == nil:
			report.Sent = append(report.Sent, newSentReport(a, size, sent))
			continue
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		}
		if failed == nil {
			failed = err
		}
		report.Failed = append(report.Failed, FailReport{a.address.String(), diagnose(err)})
	}
	bar.done()
	if len(answers) > 1 && failed != nil {
		failed = fmt.Errorf("%d of %d copies were not sent; the first of them: %w", len(report.Failed), len(answers), failed)
	}
	return errors.Join(failed, r.report(report, report.text))
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
		for _, f := range s.Failed {
			fmt.Fprintf(out, "not sent to %s: %s\n", f.Address, letter.Line(f.Message))
		}
	}
}

// sendOne seals the letter to the key in the answer, no other, and returns once
// the server has it for good: with its size in bytes.
func (s *sender) sendOne(ctx context.Context, d *letter.Draft, a *answer) (int64, *client.Sent, error) {
	m, err := d.Seal(s.from, a.address, a.key)
	if err != nil {
		return 0, nil, err
	}
	if err := s.sign(m, a); err != nil {
		return 0, nil, err
	}
	p, err := s.submitTo(ctx, a)
	if err != nil {
		return 0, nil, err
	}
	sent, err := p.send(m)
	if err != nil {
		s.drop(p.where)
		return 0, nil, fmt.Errorf("%s: %w", a.address, err)
	}
	p.used = s.now()
	return m.Size(), sent, nil
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
