package keyfile

// What lets a test rotate keys on a file system of its own.
var (
	PrepareOn = prepare
	PromoteOn = promote
	CreateOn  = createSuccessor
	PlaceOn   = place
	Announce  = announce
	Write     = write
	Parse     = parse
)
