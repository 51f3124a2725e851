package shorebird

import (
	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
)

// ReadBy is what a user of the domain home reads of a message of which nothing is proven here.
func ReadBy(m *cache.Message, home address.Domain) *ReadReport {
	return newReadReport(m, 1, &proof{}, home)
}

// For tests of what is shown, and of what is agreed upon with other programs.
var (
	SafetyWords = safetyWords
	SealWords   = sealWords
	OpenWords   = openWords
	Query       = query
	ServerSays  = serverSays
	Attachments = attachmentRows
	IsMereWord  = isMereWord
)

// For the form in which a letter is edited.
var (
	ParseDraft  = parseDraft
	FormatDraft = formatDraft
	Marked      = marked
)

// Command is the command line, for tests that hold documents to it.
func Command() *cobra.Command { return (&run{App: &App{}}).command() }
