package mailbox

import "io"

// Standing tells who brought a message, by the spool's word.
var Standing = standing

// PieceSize is how much is read at once of a message that goes out.
const PieceSize = pieceSize

// WideSize is that of a long one, of which WideMessages may be under way at a time.
const (
	WideSize     = wideSize
	WideMessages = wideMessages
)

// Ahead is ahead, in small pieces.
func Ahead(r io.Reader, use func([]byte) error) error { return ahead(r, pieces, use) }
