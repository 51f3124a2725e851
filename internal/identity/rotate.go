package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/discovery"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// RecordWait is how long the steps of a rotation wait for answers of DNS to be forgotten, unless
// told otherwise: nobody keeps one longer (docs/protocol.md section 23.7).
const RecordWait = 24 * time.Hour

// Errors of the steps. Each is wrapped with what to do.
var (
	ErrStep      = errors.New("this is not the step that is due")
	ErrRecords   = errors.New("DNS does not say yet what it has to")
	ErrEarly     = errors.New("it is too early")
	ErrWait      = errors.New("the wait is too short")
	ErrSuccessor = errors.New("another key is announced as the successor")
)

const (
	prepareCommand = "cmtpd key rotate --prepare"
	switchCommand  = "cmtpd key rotate --switch"
	// RetireCommand is what an operator types for the last step of a rotation.
	RetireCommand = "cmtpd key rotate --retire"

	// consequence is what --force means (docs/protocol.md sections 24.3 and 24.5).
	consequence = "servers that have learnt of the announced successor hold all mail from and to you: for seven days, and where DNSSEC vouches for " +
		"your records until those have named the new key for seven days, or else until their operators accept it"
)

// A Rotation changes a server's identity key step by step, so that at no step anybody who knows the
// server is without a way to its next key. Where it stands is in the files and in DNS alone.
type Rotation struct {
	cfg    *config.Config
	now    func() time.Time
	finder *discovery.Finder // nil: DNS is not asked

	// Force lets another key follow than the announced successor: see consequence.
	Force bool
	// Wait is how long answers of DNS have to grow old; 0: RecordWait.
	Wait time.Duration
	// Unpublished are domains of which nothing is published.
	Unpublished []address.Domain
}

// NewRotation returns a Rotation of the server that cfg describes. With dns the steps look at what
// is published. now is time.Now, or a test's.
func NewRotation(cfg *config.Config, dns bool, now func() time.Time) *Rotation {
	r := &Rotation{cfg: cfg, now: now}
	if dns {
		r.finder = discovery.New(cfg, discovery.Options{})
	}
	return r
}

// A StepView is where a rotation is after a step, and the form of --json.
type StepView struct {
	Text      string       `json:"text"`                // what is so now
	Key       KeyView      `json:"key"`                 // in use
	Next      *KeyView     `json:"next,omitempty"`      // prepared
	Successor *KeyView     `json:"successor,omitempty"` // announced
	Former    *KeyView     `json:"former,omitempty"`    // that was just followed
	Domains   []DomainView `json:"records"`             // what to publish; none where that is right already
	Due       string       `json:"due"`                 // what to do next; empty: nothing
}

// locked runs a step that changes keys, with other such commands kept out. A daemon may run.
func (r *Rotation) locked(step func(*State) (StepView, error)) (StepView, error) {
	if _, err := Read(r.cfg); err != nil { // before anything is made
		return StepView{}, err
	}
	if err := datadir.Own(r.cfg.DataDir); err != nil {
		return StepView{}, err
	}
	lock, err := durable.OS.Lock(r.cfg.KeyFile() + ".lock")
	if err != nil {
		return StepView{}, fmt.Errorf("locking the server's key: %w; wait for the other command", err)
	}
	defer lock.Close()
	s, err := Read(r.cfg)
	if err != nil {
		return StepView{}, err
	}
	return step(s)
}

// look returns what DNS says of the local domains; nil where it is not asked.
func (r *Rotation) look(ctx context.Context) []Sight {
	if r.finder == nil {
		return nil
	}
	return Look(ctx, r.cfg, r.finder)
}

func (r *Rotation) wait() time.Duration {
	if r.Wait == 0 {
		return RecordWait
	}
	return r.Wait
}

// view returns the common part of what every step says, with the records that have to change.
func (r *Rotation) view(s *State, sights []Sight) StepView {
	v := StepView{Key: keyView(s.Live, r.cfg.KeyFile())}
	if s.prepared() {
		v.Next = new(keyView(s.next, keyfile.NextPath(r.cfg.KeyFile())))
	}
	if next := s.announced(); next != (crypt.PublicKey{}) {
		v.Successor = new(keyView(next, keyfile.SuccessorPath(r.cfg.KeyFile())))
	}
	for _, d := range s.domains(r.cfg, sights) {
		if d.DNS == nil || !d.DNS.Right {
			v.Domains = append(v.Domains, d)
		}
	}
	return v
}

// Prepare makes the next key, or takes the one in the file from, and says what to publish. It keeps
// one that is prepared already.
func (r *Rotation) Prepare(ctx context.Context, from string) (StepView, error) {
	return r.locked(func(s *State) (StepView, error) {
		if err := r.prepare(s, from); err != nil {
			return StepView{}, err
		}
		sights := r.look(ctx)
		v := r.view(s, sights)
		v.Text = "the next key is prepared"
		if n := r.outlived(s.next); n != "" {
			v.Text += "; with the switch " + n + " worth nothing, whose codes name the present key: let those be used first, or invite again"
		}
		v.Due = "publish this, and when it is there run: " + switchCommand
		if sights == nil {
			return v, nil
		}
		seen := readSeen(r.cfg, s.next, r.now())
		seen.take(sights, r.now())
		if len(v.Domains) == 0 {
			v.Text += ", and every record names it"
			v.Due = "not before " + r.due(seen).Format(time.DateTime+" MST") + ", stop cmtpd and run: " + switchCommand
		}
		return v, seen.write(r.cfg)
	})
}

// prepare sees to it that there is a next key, and that it may be one.
func (r *Rotation) prepare(s *State, from string) error {
	if s.interrupted() {
		return fmt.Errorf("%w: a switch was cut short; end it with: %s", ErrStep, switchCommand)
	}
	var key *crypt.PrivateKey
	var err error
	if from != "" {
		key, err = keyfile.Load(from)
	} else if !s.prepared() {
		key, err = crypt.GenerateKey()
	}
	if err != nil {
		return err
	}
	next := s.next
	if key != nil {
		defer key.Wipe()
		next = key.Public()
	}
	switch {
	case s.has(next):
		return fmt.Errorf("%w: %s holds a key that the server has or had; nobody can follow that one", ErrStep, from)
	case s.prepared() && s.next != next:
		return fmt.Errorf("%w: another key is prepared; to give it up, take it out of DNS and delete %s", ErrStep, keyfile.NextPath(r.cfg.KeyFile()))
	}
	if err := r.mayFollow(s, next, nil); err != nil || s.prepared() {
		return err
	}
	if err := keyfile.Prepare(r.cfg.KeyFile(), key); err != nil {
		return err
	}
	s.next = next
	return nil
}

// mayFollow refuses a key where another one is announced, by what was made here or by what DNS says.
func (r *Rotation) mayFollow(s *State, next crypt.PublicKey, sights []Sight) error {
	none := crypt.PublicKey{}
	if r.Force {
		return nil
	}
	if s.successor != none && s.successor != next {
		return fmt.Errorf("%w: it is %s, made here; bring its file and run: %s --from FILE. With --force the key changes all the same, and %s",
			ErrSuccessor, s.successor, prepareCommand, consequence)
	}
	for i := range sights {
		if p := sights[i].Published.Record; p != nil && p.Successor != none && p.Successor != next && !s.has(p.Successor) {
			return fmt.Errorf("%w: the record of %s says that it is %s; rotate to that one. With --force the key changes all the same, and %s",
				ErrSuccessor, sights[i].Domain, p.Successor, consequence)
		}
	}
	return nil
}

// due is when every domain's record will have named the next key for long enough.
func (r *Rotation) due(seen *seen) (at time.Time) {
	for _, since := range seen.Domains {
		if since = since.Add(r.wait()); since.After(at) {
			at = since
		}
	}
	return at.UTC()
}

// Switch makes the next key the server's, once all who ask DNS know of it. The daemon must not run then.
func (r *Rotation) Switch(ctx context.Context) (StepView, error) {
	return r.locked(func(s *State) (StepView, error) {
		switch {
		case s.interrupted():
			// All was looked at before.
		case !s.prepared():
			return StepView{}, fmt.Errorf("%w: no next key is prepared; run: %s", ErrStep, prepareCommand)
		default:
			if err := r.mayFollow(s, s.next, nil); err != nil {
				return StepView{}, err
			}
			if err := r.published(ctx, s); err != nil {
				return StepView{}, err
			}
		}
		return r.promote(s, func() error { return nil })
	})
}

// published refuses to go on unless every domain names the next key, and has done so for long enough.
func (r *Rotation) published(ctx context.Context, s *State) error {
	sights := r.look(ctx)
	if sights == nil {
		return nil
	}
	now := r.now()
	seen := readSeen(r.cfg, s.next, now)
	seen.take(sights, now)
	if err := seen.write(r.cfg); err != nil {
		return err
	}
	var lacks []string
	for i := range sights {
		g := &sights[i]
		for _, f := range s.Faults(g) {
			if f.Flaw == Missing && slices.Contains(r.Unpublished, g.Domain) {
				continue
			}
			if slices.Contains([]Flaw{Unknown, Missing, Ignored, NextMissing}, f.Flaw) {
				lacks = append(lacks, f.Text)
			}
		}
		if r.Wait != 0 && r.Wait < g.TTL {
			return fmt.Errorf("%w: DNS gives the record of %s for %v, so --wait must be as long", ErrWait, g.Domain, g.TTL)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: %s; run: cmtpd key rotate, publish what it prints, and run this again (for domains that publish nothing: --unpublished DOMAIN, or --without-dns)",
			ErrRecords, strings.Join(lacks, "; "))
	}
	if err := r.mayFollow(s, s.next, sights); err != nil {
		return err
	}
	if at := r.due(seen); now.Before(at) {
		return fmt.Errorf("%w: the records name the next key, but some may still have what was there before; run this again at %s, or with --wait, if the TTL of the records, and of their absence, was always shorter than %v",
			ErrEarly, at.Format(time.DateTime+" MST"), r.wait())
	}
	return nil
}

// promote is the switch itself, with the daemon kept from starting. first comes before it.
func (r *Rotation) promote(s *State, first func() error) (StepView, error) {
	err := stopped(r.cfg, r.cfg.KeyFile(), func() error {
		if err := first(); err != nil {
			return err
		}
		_, err := keyfile.Promote(r.cfg.KeyFile())
		return errors.Join(err, dropSeen(r.cfg))
	})
	if err != nil {
		return StepView{}, err
	}
	was := s.Live
	if s, err = Read(r.cfg); err != nil {
		return StepView{}, err
	}
	v := r.view(s, nil)
	v.Domains = nil // what names both is right for now
	if was != s.Live {
		v.Former = new(keyView(was, keyfile.FormerPath(r.cfg.KeyFile(), was)))
	}
	v.Text = "the server has its new key"
	if n := r.outlived(s.Live); n != "" {
		v.Text += "; " + n + " worth nothing now, whose codes name a former key: cmtpd user invitations lists them, and cmtpd user invite makes others"
	}
	v.Due = "start cmtpd now, back up " + r.cfg.DataDir + ", tell your users the new fingerprint, and after " +
		s.Since.Add(r.wait()).UTC().Format(time.DateTime+" MST") + " run: " + RetireCommand
	return v, nil
}

// outlived says how many open invitations have codes that do not name this key; empty: none.
func (r *Rotation) outlived(key crypt.PublicKey) string {
	all, err := account.ReadInvitations(r.cfg.InvitationsDir(), durable.OS, r.now())
	if err != nil {
		return "open invitations (they could not be counted: " + err.Error() + ") are"
	}
	n := 0
	for _, i := range all {
		if i.Server != key { // also where it is zero: who made that did not know this key
			n++
		}
	}
	switch n {
	case 0:
		return ""
	case 1:
		return "one open invitation is"
	}
	return fmt.Sprintf("%d open invitations are", n)
}

// Now is Prepare and Switch at once, without a look at DNS.
func (r *Rotation) Now(from string) (StepView, error) {
	return r.locked(func(s *State) (StepView, error) {
		return r.promote(s, func() error {
			if s.interrupted() {
				return nil
			}
			return r.prepare(s, from)
		})
	})
}

// Retire says what to publish once the former key need not be named any more, and whether it is there. It
// changes nothing: the former key's file signs that the present one has followed it, and opens old mail.
func (r *Rotation) Retire(ctx context.Context) (StepView, error) {
	s, err := Read(r.cfg)
	switch {
	case err != nil:
		return StepView{}, err
	case s.prepared():
		return StepView{}, fmt.Errorf("%w: a next key is prepared, and not in use; run: %s", ErrStep, switchCommand)
	case s.interrupted():
		return StepView{}, fmt.Errorf("%w: a switch was cut short; end it with: %s", ErrStep, switchCommand)
	case len(s.former) == 0:
		return StepView{}, fmt.Errorf("%w: no key was rotated here; begin with: %s", ErrStep, prepareCommand)
	}
	if at := s.Since.Add(r.wait()); r.now().Before(at) {
		return StepView{}, fmt.Errorf("%w: the former key may be named until %s, and who goes back to it needs that; run this again then",
			ErrEarly, at.UTC().Format(time.DateTime+" MST"))
	}
	v := r.view(s, r.look(ctx))
	if len(v.Domains) == 0 {
		v.Text = "no record names a former key: the rotation is over"
		return v, nil
	}
	v.Text = "the former key need not be named any more"
	v.Due = "publish this within a week of the switch, when others would trust the former key anew, and run this again to see that it is there"
	return v, nil
}

// Status says where a rotation stands, and which step is due. It changes nothing.
func (r *Rotation) Status(ctx context.Context) (StepView, error) {
	s, err := Read(r.cfg)
	if err != nil {
		return StepView{}, err
	}
	sights := r.look(ctx)
	v := r.view(s, sights)
	named := func(g Sight) bool {
		return slices.ContainsFunc(s.former, func(k crypt.PublicKey) bool { return g.names(k) })
	}
	switch {
	case s.interrupted():
		v.Text, v.Due = "a switch was cut short", "end it with: "+switchCommand
	case s.prepared() && sights != nil && len(v.Domains) == 0:
		v.Text = "the next key is prepared, and every record names it"
		v.Due = "run: " + switchCommand
	case s.prepared():
		v.Text = "the next key is prepared"
		v.Due = "publish this, and when it is there run: " + switchCommand
	case slices.ContainsFunc(sights, named):
		v.Text = "the key was rotated on " + s.Since.UTC().Format(time.DateTime+" MST") + ", and DNS still names the former one"
		v.Due = "run: " + RetireCommand
	default:
		v.Text = "no rotation is under way"
		v.Due = "begin one with: " + prepareCommand
		if s.announced() != (crypt.PublicKey{}) {
			v.Due += " --from FILE, with the file of the successor"
		}
	}
	return v, nil
}

// Successor makes a successor's key in the new file out, and keeps its public half.
func (r *Rotation) Successor(ctx context.Context, out string) (StepView, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return StepView{}, err
	}
	if data, err := filepath.Abs(r.cfg.DataDir); err != nil || strings.HasPrefix(out, data+string(filepath.Separator)) {
		return StepView{}, errors.Join(err, fmt.Errorf("a successor's key in %s is stolen with the key that it is to follow; name a file elsewhere with --out", data))
	}
	return r.locked(func(s *State) (StepView, error) {
		if s.next != (crypt.PublicKey{}) {
			return StepView{}, fmt.Errorf("%w: a rotation is under way; end it first: cmtpd key rotate", ErrStep)
		}
		there, err := publicHalf(out)
		switch {
		case err == nil && s.has(there):
			return StepView{}, fmt.Errorf("%s holds a key that the server has or had; name another file with --out", out)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return StepView{}, fmt.Errorf("%w; nothing is written over it: name another file with --out", err)
		case err == nil && s.successor != there && s.successor != (crypt.PublicKey{}), errors.Is(err, fs.ErrNotExist) && s.successor != (crypt.PublicKey{}) && !r.Force:
			return StepView{}, r.secondSuccessor(s, out)
		}
		if s.successor, err = keyfile.MakeSuccessor(r.cfg.KeyFile(), out); err != nil {
			return StepView{}, err
		}
		v := r.view(s, r.look(ctx))
		v.Text = "the successor's secret key is in " + out + ", and nowhere else. Move that file off this machine, to where you keep what must not burn or be stolen with it"
		if len(v.Domains) > 0 {
			v.Due = "publish this: from then on, only this key follows the present one"
		}
		return v, nil
	})
}

// secondSuccessor refuses to announce another successor than the one that was announced.
func (r *Rotation) secondSuccessor(s *State, out string) error {
	if _, err := os.Lstat(out); err == nil {
		return fmt.Errorf("%w: it is %s, and %s holds another; nothing is written over that", ErrSuccessor, s.successor, out)
	}
	return fmt.Errorf("%w: it is %s. If its file is lost, --force makes another one; others take that in its place once your records have named it for seven days, and until then follow the lost one alone",
		ErrSuccessor, s.successor)
}
