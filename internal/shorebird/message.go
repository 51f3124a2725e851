package shorebird

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
	"cmtpd/internal/terminal"
)

// A Standing says in one word who speaks for a message's source.
type Standing string

// The standings, as list shows them.
const (
	Proven   Standing = "proven"   // the source's own key has signed that it submits the message
	Vouched  Standing = "vouched"  // its domain says that it has, or one's own server, of its own user
	Serverly Standing = "server"   // it is from one's own server itself, as that says
	Unproven Standing = "unproven" // nobody does
	False    Standing = "FALSE"    // what came with the message is not true
)

// believed is the standing of a message for a user of the domain home. Who submits what there, a server
// can know of its own users alone: of another domain's it proves nothing (docs/protocol.md section 26.3).
func believed(m *cache.Message, home address.Domain) cmtp.Standing {
	if m.Standing != cmtp.StandingSubmitted {
		return m.Standing
	}
	if d, err := address.ParseDomain(m.Header.SourceDomain); err != nil || d != home {
		return cmtp.StandingClaimed
	}
	return m.Standing
}

// standing returns the word for a message to a user of the domain home. What was signed, and verified here,
// says more than the word of the user's own server.
func standing(m *cache.Message, home address.Domain) Standing {
	if m.Opened != nil {
		switch parseProof(m.Opened.Proof).Kind {
		case provenance.BySender:
			return Proven
		case provenance.ByDomain:
			return Vouched
		case provenance.False:
			return False
		}
	}
	switch believed(m, home) {
	case cmtp.StandingVouched, cmtp.StandingSubmitted:
		return Vouched
	case cmtp.StandingServer:
		return Serverly
	}
	return Unproven
}

// colour goes with the word.
func (s Standing) colour() terminal.Colour {
	return map[Standing]terminal.Colour{Proven: terminal.Green, Vouched: terminal.Green, Serverly: terminal.Green, False: terminal.Red}[s]
}

// serverSays is what the user's own server says of who brought a message.
func serverSays(s cmtp.Standing) string {
	switch s {
	case cmtp.StandingVouched:
		return "the source's domain vouches for it"
	case cmtp.StandingSubmitted:
		return "it was submitted here by the source's own user"
	case cmtp.StandingServer:
		return "it is from your server itself"
	case cmtp.StandingUnknown:
		return "nothing is known of who brought it"
	}
	return "nothing proves who brought it: the source is a claim"
}

// MessageReport is a message in what list, search, read and watch print with --json. From, To,
// Subject, ReplyTo, CC and the names of attachments are a stranger's choice.
type MessageReport struct {
	Number        int64              `json:"number"` // that read and the others take; of this machine alone
	MailboxNumber uint64             `json:"mailbox_number"`
	SHA256        string             `json:"sha256"` // hex, of the message as the server stores it
	Came          time.Time          `json:"came"`
	Size          int64              `json:"size"` // bytes
	Source        Standing           `json:"source"`
	From          string             `json:"from"`
	To            string             `json:"to"`
	Sealed        bool               `json:"sealed"` // whether it came encrypted
	Seen          bool               `json:"seen"`
	Answered      bool               `json:"answered"`
	Flagged       bool               `json:"flagged"`
	Tags          []string           `json:"tags"`
	Sent          bool               `json:"sent,omitempty"`       // whether it is the copy of a letter that the user has sent
	Recipients    []string           `json:"recipients,omitempty"` // to whom
	State         string             `json:"state"`                // wanted, kept, partial, unopenable or unreadable
	Reason        string             `json:"reason,omitempty"`
	Time          time.Time          `json:"time,omitzero"` // as its writer says
	Subject       string             `json:"subject"`
	ReplyTo       string             `json:"reply_to"`
	CC            []string           `json:"cc"`
	Attachments   []AttachmentReport `json:"attachments"`
	// Unseen attachments are with the server, and nothing is known of them but how many they are.
	Missing int `json:"missing_attachments,omitempty"`
}

// AttachmentReport is an attachment of a message in the copy.
type AttachmentReport struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"` // guessed by the name
	Size   int64  `json:"size"` // bytes
}

// stateNames are by cache.State.
var stateNames = []string{"wanted", "kept", "partial", "unopenable", "unreadable"}

func newMessageReport(m *cache.Message, number int64, home address.Domain) MessageReport {
	v := MessageReport{
		Number: number, MailboxNumber: m.Number, SHA256: hex.EncodeToString(m.SHA256[:]), Came: m.Came.UTC(), Size: m.Size,
		Source: standing(m, home), From: source(&m.Header), To: m.Header.DestinationAccount + "@" + m.Header.DestinationDomain,
		Sealed: m.Header.System != cmtp.SystemPlain, Seen: m.Flags&cmtp.FlagSeen != 0, Answered: m.Flags&cmtp.FlagAnswered != 0,
		Flagged: m.Flags&cmtp.FlagFlagged != 0, Tags: append([]string{}, m.Words...), State: stateNames[m.State], Reason: m.Reason,
		CC: []string{}, Attachments: []AttachmentReport{},
	}
	if o := m.Opened; o != nil {
		v.Sent, v.Recipients = len(o.SentTo) > 0, o.SentTo
		v.Time, v.Subject, v.ReplyTo, v.CC, v.Missing = o.Written, o.Subject, o.ReplyTo, append(v.CC, o.CC...), o.Missing
		for i, a := range o.Attachments {
			v.Attachments = append(v.Attachments, AttachmentReport{i + 1, a.Name, a.Type, a.Size})
		}
	}
	return v
}

// reports describes messages, with the numbers that a person can type.
func (m *mailbox) reports(ctx context.Context, all []cache.Message) ([]MessageReport, error) {
	short, err := m.copy.Short(ctx, idsOf(all))
	if err != nil {
		return nil, err
	}
	list := []MessageReport{}
	for i := range all {
		list = append(list, newMessageReport(&all[i], short[all[i].ID], m.held.address.Domain))
	}
	return list, nil
}

// subjectOf returns what stands for a message in a list; in brackets, which are the
// program's, where that is no subject.
func subjectOf(m *cache.Message) string {
	v := newMessageReport(m, 0, address.Domain{}) // whose subject is the same for everybody
	return v.title()
}

func (v *MessageReport) title() string {
	switch {
	case v.State == "wanted":
		return "[not fetched yet]"
	case v.State == "unopenable":
		return "[does not open]"
	case v.State == "unreadable":
		return "[the server cannot give it]"
	case terminal.OneLine(v.Subject) == "":
		return "[no subject]"
	}
	return v.Subject
}

// marks are letters, so that they can be read and heard: new, answered, flagged; and + for attachments.
func (v *MessageReport) marks() string {
	b := []byte("    ")
	for i, set := range []bool{!v.Seen, v.Answered, v.Flagged, len(v.Attachments)+v.Missing > 0} {
		if set {
			b[i] = "NAF+"[i]
		}
	}
	return string(b)
}

// who returns in one line whom a message is from, or whom one went to that the user has sent.
func (v *MessageReport) who() string {
	if v.Sent {
		return "to " + letter.Line(strings.Join(v.Recipients, ", "))
	}
	return v.from()
}

// from returns the source in one line.
func (v *MessageReport) from() string {
	if v.From == "@" {
		return "[nobody]"
	}
	return letter.Line(v.From)
}
