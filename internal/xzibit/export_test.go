package xzibit

// Reencode takes an xzibit that Check accepts apart and puts it together again.
func Reencode(x []byte) ([]byte, error) {
	e, err := parse(x)
	if err != nil {
		return nil, err
	}
	if e.version == 2 {
		b, err := parseBody2(e.body)
		if err != nil {
			return nil, err
		}
		e.body = b.append(nil)
	}
	return e.append(nil), nil
}

// Encode returns the plaintext of version 2.
func (k *Keyring) Encode() ([]byte, error) { return k.append(nil) }

// SealPlaintext seals what need not be a keyring.
func SealPlaintext(plaintext []byte, addr string, password []byte, p Params) ([]byte, error) {
	return sealPlaintext(plaintext, addr, password, p)
}

// MaxKeyring is the longest plaintext of version 2 in bytes.
const MaxKeyring = maxKeyring
