package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
	"cmtpd/internal/terminal"
)

type readOptions struct {
	mailboxOptions
	keepUnseen, check bool
}

// ReadReport is what read prints with --json. Text is the writer's, too.
type ReadReport struct {
	MessageReport
	Proof      string `json:"proof"` // of who submitted it: sender, domain, unproven or false
	ProofText  string `json:"proof_text"`
	ProofKey   string `json:"proof_fingerprint,omitempty"` // of the key that has signed
	ServerSays string `json:"server_says"`                 // of who brought it
	CheckError string `json:"check_error,omitempty"`       // why the source's keys are not known
	Text       string `json:"text"`
}

func (r *run) readCommand() *cobra.Command {
	var o readOptions
	c := &cobra.Command{
		Use: "read NUMBER", Short: "Show a message, and who submitted it",
		Long: "read shows the message with the number that list shows, and marks it as seen.\n\n" +
			"It says whether the message was submitted with a key that is remembered of its source, or\n" +
			"vouched for by the server of its domain; who wrote what is sealed in it, nothing proves.\n" +
			"With --check the source's keys are asked for first, as keys does. That domain's server\n" +
			"can see then that somebody reads the message. What it says is what list shows from then on.\n\n" +
			"What stands between the first empty line and the last line is the writer's, whatever it\n" +
			"looks like; the last line says that the message ends there. At a terminal, what is longer than\n" +
			"its screen is shown by $PAGER, or less -R, with LESSSECURE=1; --no-pager does without.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.read(ctx, args[0], o) }),
	}
	c.Flags().BoolVar(&o.keepUnseen, "keep-unseen", false, "do not mark it as seen")
	c.Flags().BoolVar(&o.check, "check", false, "ask for the keys of the message's source, to see whether it was submitted with them")
	r.pagerFlag(c)
	r.mailboxFlags(c, &o.mailboxOptions)
	return c
}

func (r *run) pagerFlag(c *cobra.Command) {
	c.Flags().BoolVar(&r.noPager, "no-pager", false, "show all of it at once, also where it is longer than the terminal is high")
}

func (r *run) read(ctx context.Context, arg string, o readOptions) error {
	m, err := r.openMailbox(ctx, o.mailboxOptions)
	if err != nil {
		return err
	}
	defer m.close()
	msg, number, err := m.whole(ctx, arg)
	if err != nil {
		return err
	}
	p, err := m.proofOf(ctx, msg, o.check && !o.offline)
	if err != nil {
		return err
	}
	v := newReadReport(msg, number, p, m.held.address.Domain)
	if err := r.present(v, func(out *bytes.Buffer) { r.showMessage(out, v, p.rows(o.check)) }, m.release); err != nil {
		return err
	}
	if o.keepUnseen || v.Seen {
		return nil
	}
	if err := m.copy.Change(ctx, []int64{msg.ID}, cache.Note{Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen}); err != nil {
		return err
	}
	return m.tell(ctx)
}

// tell has the server told what was noted, where it can be reached soon.
func (m *mailbox) tell(ctx context.Context) error {
	if m.offline {
		return nil
	}
	_, err := m.update(ctx)
	return err
}

// whole returns a message that was opened. One that was not fetched yet is fetched now.
func (m *mailbox) whole(ctx context.Context, arg string) (*cache.Message, int64, error) {
	msg, number, err := m.seek(ctx, arg)
	if err != nil {
		return nil, 0, err
	}
	if msg.State == cache.Wanted && !m.offline {
		if _, err := m.sync(ctx); err != nil {
			return nil, 0, err
		}
		if msg, number, err = m.find(ctx, arg); err != nil {
			return nil, 0, err
		}
	}
	switch msg.State {
	case cache.Wanted:
		return nil, 0, hint(fmt.Errorf("message %d: %w", number, errNotHere), "Where there is a network: shorebird sync")
	case cache.Unopenable:
		return nil, 0, hint(fmt.Errorf("message %d does not open: %s", number, terminal.OneLine(msg.Reason)),
			fmt.Sprintf("With older keys it may: shorebird save %d --raw FILE, and then shorebird open FILE", number))
	case cache.Unreadable:
		return nil, 0, hint(fmt.Errorf("message %d cannot be read: %s", number, terminal.OneLine(msg.Reason)), "shorebird sync --again asks for it once more. Else tell the server's operator.")
	}
	return msg, number, nil
}

// proofOf says what a message proves of its source, by the keys that are known now where all
// of it is here, and keeps that for the next list.
func (m *mailbox) proofOf(ctx context.Context, msg *cache.Message, check bool) (*proof, error) {
	sealed, err := m.copy.Sealed(ctx, msg.ID)
	if errors.Is(err, cache.ErrNotKept) {
		return &proof{Verdict: parseProof(msg.Opened.Proof)}, nil
	}
	if err != nil {
		return nil, err
	}
	p, _, err := m.judged(ctx, sealed, check)
	if err != nil {
		return nil, err
	}
	if now := proofText(p.Verdict); now != msg.Opened.Proof {
		msg.Opened.Proof = now
		err = m.copy.SetProof(ctx, msg.ID, now)
	}
	return p, err
}

func newReadReport(msg *cache.Message, number int64, p *proof, home address.Domain) *ReadReport {
	v := &ReadReport{MessageReport: newMessageReport(msg, number, home), Proof: string(p.Kind), ProofText: p.Text,
		ServerSays: serverSays(believed(msg, home)), Text: msg.Opened.Text}
	if p.Key != (crypt.PublicKey{}) {
		v.ProofKey = p.Key.String()
	}
	if p.asked != nil {
		v.CheckError = p.asked.Error()
	}
	return v
}

// maxAttachmentRows is how many attachments a person is shown: thousands, which cost their sender nothing, would
// push what stands above them out of sight.
const maxAttachmentRows = 50

// attachmentRows tell a person of attachments.
func attachmentRows(all []AttachmentReport) (rows [][2]string) {
	for _, a := range all[:min(len(all), maxAttachmentRows)] {
		rows = append(rows, [2]string{"Attachment", fmt.Sprintf("%d. %s, %s, %d bytes", a.Number, terminal.Clip(a.Name, 200), a.Type, a.Size)})
	}
	if n := len(all) - len(rows); n > 0 {
		rows = append(rows, [2]string{"Attachments", fmt.Sprintf("and %d more: --json shows all", n)})
	}
	return rows
}

// showMessage prints a message for a person. As in show, what the program says stands above the text,
// but for the last line: whatever of that kind comes before it is the writer's.
func (r *run) showMessage(out *bytes.Buffer, v *ReadReport, proof [][2]string) {
	rows := append([][2]string{{"From", v.from()}, {"Source", string(v.Source)}}, proof...)
	to := [2]string{"To", v.To}
	if v.Sent {
		to = [2]string{"Sent to", strings.Join(v.Recipients, ", ")}
	}
	if v.Proof != string(provenance.BySender) && v.Proof != string(provenance.False) {
		rows = append(rows, [2]string{"Your server", "says that " + v.ServerSays})
	}
	rows = append(rows, [][2]string{to, {"Date", v.Time.Local().Format("Mon, 2 Jan 2006 15:04:05 -0700")},
		{"Came", v.Came.Local().Format("Mon, 2 Jan 2006 15:04:05 -0700")}, {"Subject", v.Subject}}...)
	for _, row := range [][2]string{{"Reply to", v.ReplyTo}, {"Copies", strings.Join(v.CC, ", ")}, {"Tags", strings.Join(v.Tags, ", ")}} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	if !v.Sealed {
		rows = append(rows, [2]string{"Warning", "this letter came unencrypted: others may have read or changed it"})
	}
	rows = append(rows, attachmentRows(v.Attachments)...)
	if v.Missing > 0 {
		rows = append(rows, [2]string{"Attachments", fmt.Sprintf("%d, with your server: shorebird save %d --to DIR fetches them", v.Missing, v.Number)})
	}
	r.Fields(out, rows)
	out.WriteString("\n")
	out.WriteString(r.Fold(letter.Text([]byte(v.Text))))
	if v.Text != "" && !strings.HasSuffix(v.Text, "\n") {
		out.WriteString("\n")
	}
	fmt.Fprintln(out, r.Paint(r.Getenv, terminal.Dim, fmt.Sprintf("-- end of message %d --", v.Number)))
}
