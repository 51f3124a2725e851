package cache

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/ncruces/go-sqlite3/vfs/adiantum"
	"lukechampine.com/adiantum/hbsh"

	cipher "lukechampine.com/adiantum"

	"cmtpd/internal/crypt"
)

// keyInfo tells the database's key from all others that are derived from the same seed.
const keyInfo = "shorebird cache 1"

// A dataKey encrypts a database. It is handed to the file system below SQLite by itself, so that
// it stands in no name of a file, no SQL and no error.
type dataKey []byte

func newDataKey(k *crypt.PrivateKey) (dataKey, error) {
	secret := k.Bytes()
	defer clear(secret)
	key, err := hkdf.Key(sha256.New, secret[:crypt.SeedSize], nil, keyInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of the local copy: %w", err)
	}
	return key, nil
}

// KDF returns the key for files that are the database's, and a random one for others.
func (k dataKey) KDF(text string) []byte {
	if text != "" {
		return k
	}
	key := make([]byte, len(k))
	rand.Read(key)
	return key
}

// HBSH returns the cipher of one file.
func (k dataKey) HBSH(key []byte) *hbsh.HBSH {
	if len(key) != 32 {
		return nil
	}
	return cipher.New(key)
}

// connect opens or makes the database at path. The SQLite library finds file systems by
// name: this one's is random and forgotten with close.
func connect(path string, key dataKey) (conn *sqlite3.Conn, forget func(), err error) {
	name := "cache-" + rand.Text()
	vfs.Register(name, adiantum.Wrap(vfs.Find(""), key))
	forget = func() {
		vfs.Unregister(name)
		clear(key)
	}
	query := url.Values{"vfs": {name}, "textkey": {"own"}, "modeof": {path}}
	uri := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: query.Encode()}
	conn, err = sqlite3.Open(uri.String())
	if err == nil {
		err = fts5.Register(conn)
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		forget()
		return nil, nil, err
	}
	return conn, forget, nil
}
