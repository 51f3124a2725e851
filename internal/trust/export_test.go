package trust

import "cmtpd/internal/address"

const (
	MaxPending  = maxPending
	MaxFormer   = maxFormer
	MaxActions  = maxActions
	MaxEnforce  = maxEnforce
	PendingLife = pendingLife
)

// Sum appends the check sum to what a file has before it.
func Sum(data []byte) []byte { return appendSum(data) }

// Encode returns the file of a state.
func Encode(s *State) ([]byte, error) { return encode(s) }

// Recode reads the file of a domain and returns it as it would be written.
func Recode(domain address.Domain, data []byte) ([]byte, error) {
	s, err := decode(nameOf(domain), data)
	if err != nil {
		return nil, err
	}
	return encode(s)
}

// FileName returns the name of a domain's file.
func FileName(domain address.Domain) string { return nameOf(domain).file() }
