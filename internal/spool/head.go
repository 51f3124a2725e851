package spool

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// ParseHead reads what Head.String returns.
func ParseHead(s string) (Head, error) {
	number, hash, _ := strings.Cut(s, ":")
	var h Head
	n, err := strconv.ParseUint(number, 10, 64)
	b, hexErr := hex.DecodeString(hash)
	if err != nil || hexErr != nil || len(b) != len(h.Hash) || strconv.FormatUint(n, 10) != number || hex.EncodeToString(b) != hash {
		return Head{}, fmt.Errorf("spool head %q is not a number, a colon and %d lower-case hex digits", s, 2*len(h.Hash))
	}
	return Head{Number: n, Hash: [32]byte(b)}, nil
}
