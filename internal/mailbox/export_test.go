package mailbox

// Standing tells who brought a message, by the spool's word.
var Standing = standing

// PieceSize is how much is read at once of a message that goes out.
const PieceSize = pieceSize

// Ahead is ahead.
var Ahead = ahead
