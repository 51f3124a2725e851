package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"cmtpd/internal/durable"
)

// A db is the open connection, within Cache.read or Cache.write.
type db struct {
	conn  *sqlite3.Conn
	ready map[string]*sqlite3.Stmt // by SQL, which is constant: what is prepared once
}

// prepare returns the statement with its arguments bound.
func (d *db) prepare(sql string, args []any) (*sqlite3.Stmt, error) {
	s := d.ready[sql]
	if s == nil {
		var err error
		if s, _, err = d.conn.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT); err != nil {
			return nil, err
		}
		d.ready[sql] = s
	}
	for i, arg := range args {
		if err := bind(s, i+1, arg); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func bind(s *sqlite3.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case nil:
		return s.BindNull(i)
	case int:
		return s.BindInt(i, v)
	case int64:
		return s.BindInt64(i, v)
	case uint64:
		return s.BindInt64(i, int64(v))
	case uint32:
		return s.BindInt64(i, int64(v))
	case uint8:
		return s.BindInt64(i, int64(v))
	case bool:
		return s.BindBool(i, v)
	case string:
		return s.BindText(i, v)
	case []byte:
		if v == nil {
			v = []byte{}
		}
		return s.BindBlob(i, v)
	}
	panic(fmt.Sprintf("cache: an argument of type %T", arg))
}

// exec runs a statement that gives no rows.
func (d *db) exec(sql string, args ...any) error {
	s, err := d.prepare(sql, args)
	if err != nil {
		return err
	}
	return s.Exec()
}

// each calls row for each row of a query until it returns an error.
func (d *db) each(sql string, args []any, row func(*sqlite3.Stmt) error) error {
	s, err := d.prepare(sql, args)
	if err != nil {
		return err
	}
	for s.Step() {
		if err := row(s); err != nil {
			return errors.Join(err, s.Reset())
		}
	}
	return s.Reset() // which returns Step's error
}

// once is each for SQL that is not constant.
func (d *db) once(sql string, args []any, row func(*sqlite3.Stmt) error) error {
	err := d.each(sql, args, row)
	if s := d.ready[sql]; s != nil {
		delete(d.ready, sql)
		err = errors.Join(err, s.Close())
	}
	return err
}

// one reads the first row of a query, and reports whether there is one.
func (d *db) one(sql string, args []any, row func(*sqlite3.Stmt) error) (bool, error) {
	found := false
	err := d.each(sql, args, func(s *sqlite3.Stmt) error {
		if found {
			return nil
		}
		found = true
		return row(s)
	})
	return found, err
}

// integer returns the number that a query gives, or 0.
func (d *db) integer(sql string, args ...any) (n int64, err error) {
	_, err = d.one(sql, args, func(s *sqlite3.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	})
	return n, err
}

// read lets do see the database as it is at one moment.
func (c *Cache) read(ctx context.Context, what string, do func(*db) error) error {
	return c.transact(ctx, what, "BEGIN", do)
}

// write makes what do does one change, which is on disk when write has returned nil.
func (c *Cache) write(ctx context.Context, what string, do func(*db) error) error {
	return c.transact(ctx, what, "BEGIN IMMEDIATE", do)
}

func (c *Cache) transact(ctx context.Context, what, begin string, do func(*db) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db.conn == nil {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer c.db.conn.SetInterrupt(c.db.conn.SetInterrupt(ctx))
	err := c.db.exec(begin)
	if err == nil {
		if err = do(&c.db); err == nil {
			err = c.db.exec("COMMIT")
		}
		if err != nil && !c.db.conn.GetAutocommit() {
			c.db.conn.SetInterrupt(context.Background())
			err = errors.Join(err, c.db.exec("ROLLBACK"))
		}
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, sqlite3.INTERRUPT) {
		err = cause
	}
	return fmt.Errorf("%s: %w", what, c.judge(err))
}

// judge makes damage what the next Open has to know of.
func (c *Cache) judge(err error) error {
	if !errors.Is(err, sqlite3.CORRUPT) && !errors.Is(err, sqlite3.NOTADB) && !errors.Is(err, ErrDamaged) {
		return err
	}
	if merr := durable.WriteFile(durable.OS, c.file(damagedFile), nil, 0o600); merr != nil {
		err = errors.Join(err, merr)
	}
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// hashSize is the length of what stands before bytes that SQLite would not miss.
const hashSize = 16

// pack puts a hash before b.
func pack(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(sum[:hashSize:hashSize], b...)
}

// unpack returns what was packed, in a copy. It wraps ErrDamaged.
func unpack(b []byte) ([]byte, error) {
	if len(b) < hashSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	sum := sha256.Sum256(b[hashSize:])
	if !bytes.Equal(sum[:hashSize], b[:hashSize]) {
		return nil, fmt.Errorf("%w: something in it was altered", ErrDamaged)
	}
	return bytes.Clone(b[hashSize:]), nil
}

func packJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return pack(b), err
}

func unpackJSON(b []byte, v any) error {
	plain, err := unpack(b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
