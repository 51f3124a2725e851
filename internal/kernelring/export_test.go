package kernelring

// For tests of what is in a key.
var (
	Encode = encode
	Decode = decode
)
