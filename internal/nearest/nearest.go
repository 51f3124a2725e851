// Package nearest finds which of some words was meant by one that is none of them.
//
// It guarantees that what it spends is bounded by the words that are known, however long the other one is.
package nearest

import "strings"

// longest is the length in bytes of words that are looked at.
const longest = 64

// Word returns which of some words was meant by one that is none of them: it begins so, or half of its letters are
// right. It is empty where there is none.
func Word(word string, words []string) (nearest string) {
	least := len(word)/2 + 1
	for _, w := range words {
		n := Distance(word, w)
		if strings.HasPrefix(w, word) {
			n = 0
		}
		if n < least {
			least, nearest = n, w
		}
	}
	return nearest
}

// Distance counts the insertions, deletions, substitutions and swaps of neighbours that lead from a to b, in bytes
// (optimal string alignment). Where one of them is too long to be looked at, everything in it is wrong.
func Distance(a, b string) int {
	if max(len(a), len(b)) > longest {
		return max(len(a), len(b))
	}
	var before, last, row [longest + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
