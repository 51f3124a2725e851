package keyfile

// Swap and Parse let a test rotate keys on a file system of its own.
var (
	Swap  = swap
	Write = write
	Parse = parse
)
