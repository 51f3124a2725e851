package xzibit

// Reencode takes an xzibit that Check accepts apart and puts it together again.
func Reencode(x []byte) ([]byte, error) {
	e, err := parse(x)
	if err != nil {
		return nil, err
	}
	if e.version != 1 {
		b, err := parseBody2(e.body)
		if err != nil {
			return nil, err
		}
		e.body = b.append(nil)
	}
	return e.append(nil), nil
}

// ReencodeCopy takes a recovery copy that CheckCopy accepts apart and puts it together
// again.
func ReencodeCopy(b []byte) ([]byte, error) {
	c, err := parseCopy(b)
	if err != nil {
		return nil, err
	}
	return c.append(nil), nil
}

// SealPlaintext seals what need not be a keyring.
func SealPlaintext(plaintext []byte, addr string, password []byte, p Params) ([]byte, error) {
	return sealPlaintext(plaintext, addr, password, p)
}

// SealUnlockedWith seals version 3 with the salt and the nonce that a vector fixes.
func SealUnlockedWith(fresh, plaintext []byte, addr string, password, output []byte, p Params) ([]byte, error) {
	secret, err := secret3(password, output)
	if err != nil {
		return nil, err
	}
	return sealWith(fresh, secret, 3, plaintext, addr, p)
}

// MaxKeyring is the longest plaintext of versions 2 and 3 in bytes.
const MaxKeyring = maxKeyring
