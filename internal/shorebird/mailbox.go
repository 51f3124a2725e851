package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// brief bounds how long a command that works from the copy waits for the server before it does
// without. What was not fetched by then, the next one goes on with.
const brief = 15 * time.Second

type mailboxOptions struct {
	account string
	offline bool
}

func (r *run) mailboxFlags(c *cobra.Command, o *mailboxOptions) {
	c.Flags().StringVar(&o.account, "account", "", "the `ADDRESS` whose mailbox it is, instead of the configuration's account")
	c.Flags().BoolVar(&o.offline, "offline", false, "do not ask the server: work with the copy on this machine")
	r.passwordFlag(c)
}

// A mailbox is the copy of a user's mailbox on this machine, and the way to the server that has
// the mailbox itself.
type mailbox struct {
	*desk
	copy    *cache.Cache
	offline bool
	listed  func(int)              // see cache.Syncer
	fetched func(done, left int64) // likewise
}

// openMailbox opens the copy of the user's mailbox, with the keys on this machine. Close gives back
// what it takes. Unless it is to be offline, the keys are claimed until sync or close, so that
// they are opened once.
func (r *run) openMailbox(ctx context.Context, o mailboxOptions) (*mailbox, error) {
	n, h, err := r.network()
	if err != nil {
		return nil, err
	}
	var args []string
	if o.account != "" {
		args = []string{o.account}
	}
	addr, err := r.ownAccount(args, n.settings)
	if err != nil {
		return nil, err
	}
	m := &mailbox{desk: &desk{run: r, network: n, home: h}, offline: o.offline}
	if err := m.unlock(ctx, addr); err != nil {
		m.close()
		return nil, err
	}
	m.copy, err = r.mailbox(ctx, h, addr, keys(m.held.ring))
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// unlock opens the keys on this machine.
func (m *mailbox) unlock(ctx context.Context, addr address.Address) (err error) {
	if !m.offline {
		if err = m.claim(ctx, addr); err != nil {
			return err
		}
	}
	held, err := m.run.held(ctx, m.home, addr)
	if errors.Is(err, xzibit.ErrPassword) && !m.offline {
		if cerr := m.catchUp(ctx, addr, err); !client.Temporary(cerr) {
			return cerr
		}
	}
	if err == nil {
		m.held = held
	}
	return err
}

// mailbox opens the local copy of an account's mailbox.
func (r *run) mailbox(ctx context.Context, h home, a address.Address, keys []*crypt.PrivateKey) (*cache.Cache, error) {
	return cache.Open(ctx, h.mailbox(a), keys, cache.Options{Now: r.Now, Note: func(text string) { r.note("%s", text) }})
}

func (m *mailbox) close() {
	if m.copy != nil {
		m.copy.Close()
	}
	m.network.close()
	m.release()
	if m.held != nil {
		m.held.ring.Wipe()
	}
}

// connect returns the server in a channel that is good for the time of ctx. Where another
// device has made a key meanwhile, what did not open is fetched again with it.
func (m *mailbox) connect(ctx context.Context) (*peer, error) {
	had := len(m.held.ring.Keys)
	p, err := m.proven(ctx)
	if err != nil {
		return nil, err
	}
	if len(m.held.ring.Keys) > had {
		if err := m.copy.RefetchAll(ctx); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// sync brings the copy and the mailbox together.
func (m *mailbox) sync(ctx context.Context) (*cache.Report, error) {
	p, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	report, err := m.syncer().Run(ctx, p.channel)
	p.used = m.now()
	if err != nil {
		m.drop(p.where)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	for _, gone := range report.GivenUp {
		m.note("Given up: %s", letter.Line(gone.Error()))
	}
	return report, nil
}

// errBrief ends a sync that takes longer than a person likes to wait.
type errBrief time.Duration

func (e errBrief) Error() string {
	return fmt.Sprintf("it takes longer than %v; shorebird sync waits for all of it", time.Duration(e))
}

func (errBrief) Unwrap() error { return context.DeadlineExceeded }

// update is sync for a command that can do without: it takes little time, and a server that cannot be
// reached is no error. It reports whether the copy is in step, and tells a person when it is not.
func (m *mailbox) update(ctx context.Context) (bool, error) {
	if m.offline {
		return false, m.since(ctx, "Not asked:")
	}
	wait := m.SyncWait
	if wait == 0 {
		wait = brief
	}
	short, cancel := context.WithTimeoutCause(ctx, wait, errBrief(wait))
	defer cancel()
	defer m.network.close() // no connection outlives its context
	_, err := m.sync(short)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case client.Temporary(err) || errors.Is(err, context.DeadlineExceeded):
		return false, m.since(ctx, fmt.Sprintf("The server was not reached (%s):", terminal.OneLine(err.Error())))
	}
	return false, err
}

// since tells how old the copy is.
func (m *mailbox) since(ctx context.Context, why string) error {
	n, err := m.copy.Counts(ctx)
	if err != nil {
		return err
	}
	when := "this machine has no whole copy of the mailbox yet."
	if !n.Synced.IsZero() {
		when = "this is the copy of " + n.Synced.Local().Format("2 Jan 2006, 15:04") + "."
	}
	m.note("%s %s", why, when)
	return nil
}

func (m *mailbox) syncer() *cache.Syncer {
	return &cache.Syncer{
		Cache: m.copy, Open: m.opened, Listed: m.listed, Fetched: m.fetched,
		OpenWords: func(of cache.Digest, b []byte) ([]string, bool) { return openWords(of, b, keys(m.held.ring)) },
		SealWords: func(of cache.Digest, w []string) ([]byte, error) { return sealWords(of, w, keys(m.held.ring)) },
	}
}

// errElsewhere is why nothing is proven of a message whose attachments are with the server.
const errElsewhere = "unproven: it is too large to be kept here, so what came with it was not looked at"

// opened opens a message for the copy. What it says of the source is by the keys that are remembered
// now.
func (m *mailbox) opened(ctx context.Context, msg *cache.Message, sealed []byte, missing int) (*cache.Opened, error) {
	in := bytes.NewReader(sealed)
	l, err := letter.Open(in, in.Size(), keys(m.held.ring))
	if err != nil {
		return nil, err
	}
	sentTo := l.TakeCopy(keys(m.held.ring))
	o := &cache.Opened{Written: l.Time.UTC(), Subject: l.Subject, ReplyTo: l.ReplyTo, CC: l.CC, Text: string(l.Text), Writer: source(&l.Header), SentTo: sentTo}
	for _, a := range l.Attachments {
		o.Attachments = append(o.Attachments, cache.Attachment{Name: a.Name, Type: typeOf(a.Name), Size: a.Size})
	}
	verdict := provenance.Verdict{Kind: provenance.Unproven, Text: errElsewhere}
	if missing == 0 {
		p, digest, err := m.judged(ctx, sealed, false)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", cache.ErrAgain, err)
		}
		verdict, o.Core = p.Verdict, digest
	}
	o.Proof = proofText(verdict)
	return o, nil
}

// judged says what a whole message proves of its source.
func (m *mailbox) judged(ctx context.Context, message []byte, check bool) (*proof, cache.Digest, error) {
	in := bytes.NewReader(message)
	layout, err := cmtp.ParseLayout(in, in.Size())
	if err != nil {
		return nil, cache.Digest{}, err
	}
	p, err := m.acquainted(ctx, m.home, m.held.address, layout, check)
	if err != nil {
		return nil, cache.Digest{}, err
	}
	digest, err := coreDigest(in)
	if err != nil {
		return nil, cache.Digest{}, err
	}
	p.Verdict = provenance.Judge(&layout.Header, layout.Log, digest, p.known)
	return p, digest, nil
}

// What is proven of a message stands in its cache.Opened.Proof as the kind, a space, and the words.

func proofText(v provenance.Verdict) string { return string(v.Kind) + " " + v.Text }

func parseProof(s string) (v provenance.Verdict) {
	kind, text, _ := strings.Cut(s, " ")
	return provenance.Verdict{Kind: provenance.Kind(kind), Text: text}
}

// source returns the source that an envelope names, as it is.
func source(h *cmtp.Header) string { return h.SourceAccount + "@" + h.SourceDomain }

// typeOf guesses an attachment's media type by its name; the writer does not say it.
func typeOf(name string) string {
	if t := mime.TypeByExtension(strings.ToLower(path.Ext(name))); t != "" {
		return t
	}
	return "application/octet-stream"
}

// seek is find for a command that changes nothing that would be missed: where there is no message with the number, it gives
// numbers to what list would show now, so that a first list is not needed. Who deletes has to have seen what.
func (m *mailbox) seek(ctx context.Context, arg string) (*cache.Message, int64, error) {
	msg, n, err := m.find(ctx, arg)
	if !errors.Is(err, errNoSuchMessage) {
		return msg, n, err
	}
	if !m.offline {
		if _, trouble := m.update(ctx); trouble != nil {
			return nil, 0, trouble
		}
	}
	all, lerr := m.copy.List(ctx, cache.Filter{Way: cache.Came, Limit: listed})
	if lerr == nil {
		_, lerr = m.copy.Short(ctx, idsOf(all))
	}
	if lerr != nil {
		return nil, 0, lerr
	}
	return m.find(ctx, arg)
}

// find returns the message with a number that a person has typed.
func (m *mailbox) find(ctx context.Context, arg string) (*cache.Message, int64, error) {
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n < 1 {
		return nil, 0, usage(fmt.Errorf("%q is no number of a message: see shorebird list", arg))
	}
	msg, err := m.copy.ByShort(ctx, n)
	if errors.Is(err, cache.ErrNotFound) {
		return nil, 0, hint(fmt.Errorf("message %d: %w", n, errNoSuchMessage), "shorebird list and search show which there are.")
	}
	return msg, n, err
}

// findAll returns the messages with all these numbers, each once.
func (m *mailbox) findAll(ctx context.Context, args []string) (ids, numbers []int64, err error) {
	seen := map[int64]bool{}
	for _, arg := range args {
		msg, n, err := m.find(ctx, arg)
		if err != nil {
			return nil, nil, err
		}
		if !seen[n] {
			seen[n] = true
			ids, numbers = append(ids, msg.ID), append(numbers, n)
		}
	}
	return ids, numbers, nil
}

func idsOf(all []cache.Message) (ids []int64) {
	for i := range all {
		ids = append(ids, all[i].ID)
	}
	return ids
}
