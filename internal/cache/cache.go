package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// Errors of this package.
var (
	// ErrDamaged: the database is not as it was written. The next Open sets it aside.
	ErrDamaged = errors.New("the local copy of the mailbox is damaged; the next start sets it aside and makes a new one")
	// ErrClosed: the Cache was used after Close.
	ErrClosed = errors.New("the local copy of the mailbox was closed")
	// ErrNotFound: there is no such message, draft, letter or copy here.
	ErrNotFound = errors.New("not in the local copy of the mailbox")
	// ErrQuery: what to search for was not understood; the text says why.
	ErrQuery = errors.New("this cannot be searched for")
	// ErrWords: the words of a message cannot be changed as asked.
	ErrWords = errors.New("the keywords cannot be changed")
	// ErrState: the copy is not in a state in which that can be done to it.
	ErrState = errors.New("that cannot be done to this letter now")
	// ErrNotKept: this machine has the text of the message, and not all of its bytes.
	ErrNotKept = errors.New("the message is not kept whole on this machine")
)

// Names within the directory.
const (
	database    = "mail.db"
	damagedFile = "damaged"
	syncLock    = "sync.lock"
	outboxLock  = "outbox.lock"
)

// busy is how long a transaction waits for those of other processes, which are short.
const busy = 30 * time.Second

// A Cache is an open copy of a mailbox. It is safe for concurrent use, in this process
// and beside others.
type Cache struct {
	dir    string
	now    func() time.Time
	forget func()
	mu     sync.Mutex // held through each transaction; guards db
	db     db
}

// Options are what Open may be told. Zero values mean the default.
type Options struct {
	Now func() time.Time // default time.Now
	// Note tells the user something; the default is to keep silent.
	Note func(text string)
	// Leave makes what cannot be used an error, and moves nothing aside: for who does not tell the user.
	Leave bool
}

// Open opens the copy in the directory dir, or makes one. Keys are all that the account's keyring
// has, the oldest last; whichever fits opens it. What no key opens, or is
// damaged or of another version, is moved aside with a note to the user, and a new copy made.
// Close gives back what it takes.
func Open(ctx context.Context, dir string, keys []*crypt.PrivateKey, o Options) (*Cache, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	c := &Cache{dir: dir, now: o.Now}
	if err := c.open(ctx, keys, &o); err != nil {
		return nil, fmt.Errorf("opening the local copy of the mailbox in %s: %w", dir, err)
	}
	return c, nil
}

func (c *Cache) open(ctx context.Context, keys []*crypt.PrivateKey, o *Options) error {
	if len(keys) == 0 {
		return errors.New("there is no key for it")
	}
	if err := durable.MkdirAll(durable.OS, filepath.Dir(c.dir), 0o700); err != nil {
		return err
	}
	lock, err := waitLock(ctx, c.dir+".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	why, err := c.try(keys)
	if err != nil || why == "" {
		return err
	}
	if o.Leave {
		return errors.New(why)
	}
	aside := c.dir + "." + c.now().UTC().Format("20060102T150405.000Z")
	if err := durable.Publish(durable.OS, c.dir, aside); err != nil {
		return fmt.Errorf("moving it aside, since %s: %w", why, err)
	}
	o.Note(fmt.Sprintf("The local copy of the mailbox was set aside, since %s. It is in %s, with drafts and unsent letters "+
		"that were in it; mail is fetched again.", why, aside))
	if why, err = c.try(keys); err == nil && why != "" {
		err = fmt.Errorf("a new one cannot be used: %s", why)
	}
	return err
}

// try opens the database with the keys in turn, or makes one with the last. It says why a
// database that is there cannot be used.
func (c *Cache) try(keys []*crypt.PrivateKey) (why string, err error) {
	isNew, err := c.prepareFiles()
	if err != nil {
		return "", err
	}
	if !isNew {
		if names, err := durable.OS.ReadDir(c.dir); err != nil {
			return "", err
		} else if slices.Contains(names, damagedFile) {
			return "it is damaged", nil
		}
	}
	why = "none of the account's keys opens it"
	for i := range keys {
		key, err := newDataKey(keys[len(keys)-1-i])
		if err != nil {
			return "", err
		}
		why, err = c.tryKey(key)
		if err == nil || !errors.Is(err, sqlite3.NOTADB) {
			return why, err
		}
		why = "none of the account's keys opens it"
	}
	return why, nil
}

// prepareFiles makes the directory and empty files with the right mode, and reports
// whether there was no database.
func (c *Cache) prepareFiles() (isNew bool, err error) {
	if err := durable.MkdirAll(durable.OS, c.dir, 0o700); err != nil {
		return false, err
	}
	for _, name := range []string{database, database + "-shm"} {
		f, err := durable.OS.Create(c.file(name), 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return false, err
		}
		isNew = isNew || name == database
	}
	return isNew, durable.OS.SyncDir(c.dir)
}

// tryKey opens the database with key. The error wraps sqlite3.NOTADB where the key does not
// fit.
func (c *Cache) tryKey(key dataKey) (why string, err error) {
	conn, forget, err := connect(c.file(database), key)
	if errors.Is(err, sqlite3.CORRUPT) {
		return "it is damaged", nil
	}
	if err != nil {
		return "", err
	}
	c.db, c.forget = db{conn, make(map[string]*sqlite3.Stmt)}, forget
	why, err = c.begin()
	if why != "" || err != nil {
		err = errors.Join(err, c.Close())
	}
	if errors.Is(err, sqlite3.CORRUPT) {
		return "it is damaged", nil
	}
	return why, err
}

// begin readies the connection, and the database where it is new.
func (c *Cache) begin() (why string, err error) {
	if err := c.db.conn.BusyTimeout(busy); err != nil {
		return "", err
	}
	if err := c.db.conn.Exec(settings); err != nil {
		return "", err
	}
	have, err := c.db.integer("PRAGMA user_version")
	if err != nil {
		return "", err
	}
	if have == version {
		return "", c.db.extend()
	}
	if tables, err := c.db.integer("SELECT count(*) FROM sqlite_schema"); err != nil {
		return "", err
	} else if have != 0 || tables != 0 {
		return fmt.Sprintf("it is of version %d, and this program's is %d", have, version), nil
	}
	mode := "PRAGMA journal_mode = wal"
	if !vfs.SupportsSharedMemory {
		mode = "PRAGMA journal_mode = delete"
	}
	if err := c.db.conn.Exec(mode); err != nil {
		return "", err
	}
	return "", c.db.conn.Exec(fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA user_version = %d; COMMIT", schema, version))
}

// Close ends the use of the copy. It may be called twice.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db.conn == nil {
		return nil
	}
	for _, s := range c.db.ready {
		s.Close() // the error is that of its last use
	}
	err := c.db.conn.Close()
	c.forget()
	c.db = db{}
	if err != nil {
		return fmt.Errorf("closing the local copy of the mailbox: %w", err)
	}
	return nil
}

func (c *Cache) file(name string) string { return filepath.Join(c.dir, name) }

// waitLock waits for its turn with a lock file.
func waitLock(ctx context.Context, path string) (io.Closer, error) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		lock, err := durable.OS.Lock(path)
		if err == nil || !errors.Is(err, durable.ErrLocked) {
			return lock, err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
