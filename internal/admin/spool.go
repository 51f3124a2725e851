package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
)

// A Spool looks into the spool of one server, beside its daemon or without one.
// It changes nothing.
type Spool struct {
	*spool.Spool
	cfg *config.Config
}

// OpenSpool opens the spool for reading.
func OpenSpool(cfg *config.Config) (*Spool, error) {
	s, err := spool.OpenReadOnly(cfg.SpoolDir(), durable.OS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the spool: %w; cmtpd serve makes it at its first start", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the spool: %w", err)
	}
	return &Spool{s, cfg}, nil
}

// Get is the spool's.
func (s *Spool) Get(id spool.ID) (spool.Info, error) {
	info, err := s.Spool.Get(id)
	return info, s.missing(err)
}

// Open is the spool's.
func (s *Spool) Open(id spool.ID) (*spool.Reader, error) {
	r, err := s.Spool.Open(id)
	return r, s.missing(err)
}

// missing says of a message that is not there that it may stand in a damaged place,
// where there is one: not even its number can be read then.
func (s *Spool) missing(err error) error {
	if errors.Is(err, spool.ErrNotFound) && len(s.Damage()) > 0 {
		return fmt.Errorf("%w, or it stands where the spool is damaged: see cmtpd spool verify", err)
	}
	return err
}

// A MessageView is a message as it is shown, and the form of --json. The source
// is a claim; nobody has proven it.
type MessageView struct {
	ID          string    `json:"id"`
	Mailbox     string    `json:"mailbox"`
	Received    time.Time `json:"received"`
	From        string    `json:"from_address"` // who handed it over
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Size        int64     `json:"size"`
	System      uint32    `json:"crypto_system"`
	Attachments uint32    `json:"attachments"`
	Digest      string    `json:"core_digest"` // hex
	SHA256      string    `json:"sha256"`      // hex, of the whole message
	Large       bool      `json:"own_file"`
	Flags       uint32    `json:"flags"`
	FlagNames   []string  `json:"flag_names"`
	Change      uint64    `json:"change_number"` // of the message's newest mark, or its arrival
	Log         []string  `json:"log,omitempty"`
}

// View returns what is shown of a message, from its log record and its header.
func (s *Spool) View(info spool.Info) (MessageView, error) {
	v := MessageView{
		ID: info.ID.String(), Mailbox: info.Mailbox.String(), Received: info.Received, From: info.From, Size: info.Size,
		Digest: fmt.Sprintf("%x", info.Digest), SHA256: fmt.Sprintf("%x", info.SHA256), Large: info.Large,
		Flags: uint32(info.Mark.Flags), FlagNames: info.Mark.Flags.Names(), Change: info.Change,
	}
	r, err := s.Open(info.ID)
	if err != nil {
		return v, err
	}
	defer r.Close()
	l, err := cmtp.ParseLayout(r, info.Size)
	if err != nil {
		return v, fmt.Errorf("message %s: %w", info.ID, err)
	}
	v.Source = l.Header.SourceAccount + "@" + l.Header.SourceDomain
	v.Destination = l.Header.DestinationAccount + "@" + l.Header.DestinationDomain
	v.System, v.Attachments, v.Log = l.Header.System, l.Header.Attachments, cmtp.LogEntries(l.Log)
	return v, nil
}

// Select returns the messages of one user, or all when addr is zero.
func (s *Spool) Select(addr address.Address) (iter.Seq2[spool.Info, error], error) {
	if addr.IsZero() {
		return s.All(0), nil
	}
	users, err := OpenUsers(s.cfg)
	if err != nil {
		return nil, err
	}
	a, err := users.Get(addr)
	if err := errors.Join(err, users.Close()); err != nil {
		return nil, err
	}
	return s.List(spool.MailboxID(a.ID), 0), nil
}

// Operator returns the messages to the server itself.
func (s *Spool) Operator() iter.Seq2[spool.Info, error] {
	return s.List(spool.MailboxID(account.Operator), 0)
}

// Export writes a message to w as it came over the wire, and fails where it is
// not what was stored.
func (s *Spool) Export(id spool.ID, w io.Writer) error {
	r, err := s.Open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// ExportFile writes a message to a new file that only its owner can read.
func (s *Spool) ExportFile(id spool.ID, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("exporting message %s: %w", id, err)
	}
	if err = errors.Join(s.Export(id, f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// Verify proves the whole spool against the server's identity key.
func Verify(ctx context.Context, cfg *config.Config, progress func(done, total int64), want ...spool.Head) (spool.Report, error) {
	key, err := keyfile.Load(cfg.KeyFile())
	if err != nil {
		return spool.Report{}, err
	}
	defer key.Wipe()
	return spool.Verify(ctx, durable.OS, cfg.SpoolDir(), key.Public(), progress, want...)
}

// Proven returns what is wrong with a spool that was verified. It tells a spool that the
// daemon has yet to take over, after its key was rotated, from somebody else's.
func Proven(cfg *config.Config, r *spool.Report) error {
	err := r.Err()
	if !r.Foreign || len(r.Damage) > 0 {
		return err
	}
	former, loadErr := keyfile.LoadFormer(cfg.KeyFile(), r.Identity)
	if errors.Is(loadErr, fs.ErrNotExist) {
		return err
	}
	if loadErr != nil {
		return errors.Join(err, loadErr)
	}
	former.Wipe()
	return fmt.Errorf("%w; this server had that key before it was rotated, and nothing else is wrong: "+
		"at its next start cmtpd serve has it sign that the present key follows, so start it, and verify then", err)
}

// ReadOwn opens a message that is sealed to the server itself, such as one to the
// postmaster where nobody was named as that, and hands the letter to use while
// it is open. All of it has been verified by then. It may be sealed to a key that the
// server had before.
func (s *Spool) ReadOwn(id spool.ID, use func(*letter.Letter) error) error {
	key, err := keyfile.Load(s.cfg.KeyFile())
	if err != nil {
		return err
	}
	keys, err := keyfile.Former(s.cfg.KeyFile())
	keys = append(keys, key)
	defer func() {
		for _, k := range keys {
			k.Wipe()
		}
	}()
	if err != nil {
		return err
	}
	r, err := s.Open(id)
	if err != nil {
		return err
	}
	defer r.Close()
	l, err := letter.Open(r, r.Size(), keys)
	if errors.Is(err, letter.ErrKeys) {
		return fmt.Errorf("message %s is not sealed to this server's key, but to its reader's: %w", id, err)
	}
	if err != nil {
		return fmt.Errorf("opening message %s: %w", id, err)
	}
	return use(l)
}
