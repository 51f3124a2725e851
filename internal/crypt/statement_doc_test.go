package crypt_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
)

var docBlock = regexp.MustCompile("(?s)```(hex statement|text entry)-([a-z-]+)\n(.*?)```")

// docBlocks returns what docs/protocol.md shows of statements and entries, by name.
func docBlocks(t *testing.T) map[string][]byte {
	t.Helper()
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]byte)
	for _, m := range docBlock.FindAllStringSubmatch(string(doc), -1) {
		kind, name, text := m[1], m[2], m[3]
		b := []byte(strings.TrimSuffix(text, "\n"))
		if kind == "hex statement" {
			var digits strings.Builder
			for line := range strings.Lines(text) {
				line, _, _ = strings.Cut(line, ";")
				digits.WriteString(strings.Join(strings.Fields(line), ""))
			}
			if b, err = hex.DecodeString(digits.String()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if len(b) == 0 || found[name] != nil {
			t.Fatalf("%s is there twice or empty", name)
		}
		found[name] = b
	}
	return found
}

// TestStatements_Document holds the examples of docs/protocol.md to the vectors.
func TestStatements_Document(t *testing.T) {
	v := loadStatements(t)
	first, r, proof := v.KeyStatements[0], v.Rotation, v.Proofs[0]
	want := map[string][]byte{
		"key-first": wire([]byte(first.Statement), crypt.Signature{}, []byte(first.Signatures["server"])),
		"history":   v.Histories[0].Payload,
		"rotation":  wire([]byte(r.Statement), []byte(r.Signatures["server_former"]), []byte(r.Signatures["server"])),
		"receipt":   v.Receipt.Payload,
		"auth":      wire([]byte(proof.Statement), []byte(proof.Signatures["alice"])),
		"origin":    []byte(v.Origin.Entry),
		"sender":    []byte(v.Senders[0].Entry),
		"received":  []byte(v.Received.Entry),
		"foreign":   v.Foreign[0].Payload,
	}
	found := docBlocks(t)
	if len(found) != len(want) {
		t.Errorf("the document has %d examples, the test knows %d", len(found), len(want))
	}
	for name, b := range want {
		if !bytes.Equal(found[name], b) {
			t.Errorf("%s is\n%x, want\n%x", name, found[name], b)
		}
	}
}
