package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

type openOptions struct {
	save, account string
	check         bool // ask for the source's keys
}

// OpenReport is what open prints with --json. All but Sealed, what is said of Proof, and the
// names under Saved is what the letter's writer chose.
type OpenReport struct {
	From        string         `json:"from"`
	Proof       string         `json:"proof"` // of who submitted it: sender, domain, unproven or false
	ProofText   string         `json:"proof_text"`
	ProofKey    string         `json:"proof_fingerprint,omitempty"` // of the key that has signed
	CheckError  string         `json:"check_error,omitempty"`       // why the source's keys are not known
	To          string         `json:"to"`
	Sealed      bool           `json:"sealed"` // whether it came encrypted
	Time        time.Time      `json:"time"`
	Subject     string         `json:"subject"`
	ReplyTo     string         `json:"reply_to"`
	CC          []string       `json:"cc"`
	Text        string         `json:"text"`
	Attachments []AttachReport `json:"attachments"`
}

// AttachReport is an attachment of a letter.
type AttachReport struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`            // bytes
	Saved string `json:"saved,omitempty"` // name in the directory of --save
}

func (r *run) open(ctx context.Context, path string, o openOptions) error {
	if path == "-" && r.stdin {
		return usage(errors.New("standard input cannot be both the message and the password"))
	}
	h, err := newHome(r.Getenv)
	if err != nil {
		return err
	}
	f, size, err := r.source(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	layout, err := cmtp.ParseLayout(f, size)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, errNoMessage, err)
	}
	addr, err := h.reader(layout.Header, o.account)
	if err != nil {
		return err
	}
	held, err := r.held(ctx, h, addr)
	if errors.Is(err, errNoKeys) && o.account == "" {
		err = hint(err, fmt.Sprintf("If %s is another name of one of your accounts, say which with --account ADDRESS. Else fetch its keys first: shorebird recover %s", addr, shellWord(addr.String())))
	}
	if err != nil {
		return err
	}
	ring := held.ring
	defer ring.Wipe()
	proven, err := r.acquainted(ctx, h, addr, layout, o.check)
	if err != nil {
		return err
	}
	work := size
	if o.save != "" {
		work *= 2
	}
	if proven.claims {
		work += size
	}
	bar := r.progress(ctx, "opening", work)
	watched := bar.Watch(f)
	l, err := r.openAside(ctx, h, held, func() (*letter.Letter, error) { return letter.Open(watched, size, keys(ring)) })
	if err == nil {
		err = proven.judge(layout, io.NewSectionReader(watched, 0, size))
	}
	if err != nil {
		bar.Done()
		return fmt.Errorf("opening %s: %w", path, err)
	}
	report := newOpenReport(l, proven)
	err = saveAll(o.save, l, report)
	bar.Done()
	return errors.Join(err, r.present(report, func(out *bytes.Buffer) { r.show(out, l, report, proven.rows(o.check)) }, func() {}))
}

func keys(ring *xzibit.Keyring) []*crypt.PrivateKey {
	var all []*crypt.PrivateKey
	for _, p := range ring.Keys {
		all = append(all, p.Key)
	}
	return all
}

// source opens the message. One on standard input goes to a file that nobody else
// can read and that has no name any more, since opening reads it several times.
func (r *run) source(ctx context.Context, path string) (*os.File, int64, error) {
	var f *os.File
	var err error
	if path == "-" {
		f, err = r.spoolInput(ctx)
	} else {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening the message: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("opening %s: %w", path, letter.ErrNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (r *run) spoolInput(ctx context.Context) (*os.File, error) {
	f, err := os.CreateTemp("", "shorebird-*")
	if err != nil {
		return nil, err
	}
	_, err = terminal.Interruptible(ctx, func() ([]byte, error) {
		_, err := io.Copy(f, r.In)
		return nil, err
	})
	if err = errors.Join(os.Remove(f.Name()), err); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reader returns whose keys, which are on this machine, open a message: the account
// given, or the one that the message is for, or else, since that may be an alias, the
// configuration's.
func (h home) reader(env cmtp.Header, account string) (address.Address, error) {
	if account != "" {
		a, err := address.Parse(account)
		if err != nil {
			return a, fmt.Errorf("--account: %w", err)
		}
		return a, nil
	}
	a, err := address.Parse(env.DestinationAccount + "@" + env.DestinationDomain)
	if err == nil {
		a.Account = a.Account.Base()
		if h.hasKeys(a) {
			return a, nil
		}
	}
	s, serr := h.settings()
	if serr != nil {
		return a, serr
	}
	if !s.Account.IsZero() && h.hasKeys(s.Account) {
		return s.Account, nil
	}
	if errors.Is(err, address.ErrInvalid) {
		err = hint(fmt.Errorf("the message is for no account: %w", err), "Say whose keys to use with --account ADDRESS.")
	}
	return a, err
}

func newOpenReport(l *letter.Letter, p *proof) *OpenReport {
	v := &OpenReport{
		From: l.Header.SourceAccount + "@" + l.Header.SourceDomain, Proof: string(p.Kind), ProofText: p.Text,
		To:     l.Header.DestinationAccount + "@" + l.Header.DestinationDomain,
		Sealed: l.Sealed, Time: l.Time.UTC(), Subject: l.Subject, ReplyTo: l.ReplyTo,
		CC: append([]string{}, l.CC...), Text: string(l.Text), Attachments: []AttachReport{},
	}
	if p.Key != (crypt.PublicKey{}) {
		v.ProofKey = p.Key.String()
	}
	if p.asked != nil {
		v.CheckError = p.asked.Error()
	}
	for _, a := range l.Attachments {
		v.Attachments = append(v.Attachments, AttachReport{Name: a.Name, Size: a.Size})
	}
	return v
}

// saveAll writes the attachments into a directory, which it makes.
func saveAll(path string, l *letter.Letter, v *OpenReport) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("making the directory for attachments: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("opening the directory for attachments: %w", err)
	}
	defer dir.Close()
	for i, a := range l.Attachments {
		if v.Attachments[i].Saved, err = letter.Save(dir, a); err != nil {
			return err
		}
	}
	return nil
}

// show prints a letter for a person. All that the program says stands above the
// text, so that a text cannot speak in the program's name.
func (r *run) show(out *bytes.Buffer, l *letter.Letter, v *OpenReport, proof [][2]string) {
	from := letter.Claim(l.Header)
	if v.ProofKey != "" {
		from = letter.Line(v.From)
	}
	rows := append(append([][2]string{{"From", from}}, proof...), [][2]string{
		{"To", letter.Line(v.To)},
		{"Date", l.Time.Format("Mon, 2 Jan 2006 15:04:05 -0700")},
		{"Subject", letter.Line(v.Subject)},
	}...)
	if v.ReplyTo != "" {
		rows = append(rows, [2]string{"Reply to", letter.Line(v.ReplyTo)})
	}
	if len(v.CC) > 0 {
		rows = append(rows, [2]string{"Copies", letter.Line(strings.Join(v.CC, ", "))})
	}
	if !v.Sealed {
		rows = append(rows, [2]string{"Warning", "this letter came unencrypted: others may have read or changed it"})
	}
	for i, a := range v.Attachments {
		s := fmt.Sprintf("%d. %s, %d bytes", i+1, letter.Line(a.Name), a.Size)
		if a.Saved != "" {
			s += ", saved as " + letter.Line(a.Saved)
		}
		rows = append(rows, [2]string{"Attachment", s})
	}
	r.Fields(out, rows)
	out.WriteString("\n")
	out.WriteString(r.Fold(letter.Text(l.Text)))
	if len(l.Text) > 0 && l.Text[len(l.Text)-1] != '\n' {
		out.WriteString("\n")
	}
}
