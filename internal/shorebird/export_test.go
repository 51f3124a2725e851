package shorebird

// For tests of what is shown, and of what is agreed upon with other programs.
var (
	SafetyWords = safetyWords
	SealWords   = sealWords
	OpenWords   = openWords
	OneLine     = oneLine
	Clip        = clip
	Wrap        = wrap
	Query       = query
)

// For the form in which a letter is edited.
var (
	ParseDraft  = parseDraft
	FormatDraft = formatDraft
	Marked      = marked
)
