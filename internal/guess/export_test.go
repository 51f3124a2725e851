package guess

// What the tests of the format need.
const (
	MaxProven   = maxProven
	MaxNetworks = maxNetworks
	MaxOfSite   = maxOfSite
)

var ErrDamaged = errDamaged

// Recode parses the file of an account and returns it as it would be written.
func Recode(account [16]byte, data []byte) ([]byte, error) {
	a, err := parseAccount(account, data)
	if err != nil {
		return nil, err
	}
	return a.append(nil, account), nil
}

// RecodeTable does the same with the file of networks.
func RecodeTable(data []byte) ([]byte, error) {
	others, entries, err := parseTable(data)
	if err != nil {
		return nil, err
	}
	return appendTable(nil, others, entries), nil
}

// Sum appends the check sum of data.
func Sum(data []byte) []byte { return appendSum(data, 0) }

// Networks returns how many networks are told apart.
func (b *Budget) Networks() int {
	b.networks.mu.Lock()
	defer b.networks.mu.Unlock()
	return len(b.networks.whole)
}
