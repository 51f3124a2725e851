package cache

// version is the schema's. A database of another one is set aside: what the server has is
// fetched again.
const version = 1

// settings are of a connection. Temporary tables stay in memory, where nothing of them can
// reach a disk; and a commit is on disk when it returns.
const settings = `
PRAGMA temp_store = memory;
PRAGMA synchronous = full;
PRAGMA secure_delete = fast;
PRAGMA cache_size = -8000;
PRAGMA journal_size_limit = 16777216;
`

// schema makes a new database.
//
// A content is a message, known by its SHA-256 whatever its number. Its id is the second in which it came, times
// 2^20, and a count that goes with the numbers: so ids ascend as messages came, also where they were fetched the
// other way around, and the index of words, which can be read backwards by id, gives the newest first. Its texts are
// folded.
//
// An entry is a message's place in the mailbox. shown, labels and gone are flags, words and
// presence as the user sees them: the server's, with the intents upon them. A copy of what was sent is shown as seen.
//
// The row of copy without a recipient is the one that the sender keeps.
const schema = `
CREATE TABLE mailbox (
	id     INTEGER PRIMARY KEY CHECK (id = 1),
	epoch  BLOB NOT NULL,             -- empty before the first answer
	change INTEGER NOT NULL,          -- everything up to it is here
	below  INTEGER NOT NULL,          -- entries below it were not listed yet; 0 when all were
	box    BLOB,                      -- sizes, as the server told last
	synced INTEGER                    -- when the copy was in step last; NULL when it never was
);
INSERT INTO mailbox VALUES (1, x'', 0, 0, NULL, NULL);

CREATE TABLE short (
	n   INTEGER PRIMARY KEY AUTOINCREMENT, -- never given to another message
	sha BLOB NOT NULL UNIQUE
);

CREATE TABLE content (
	id     INTEGER PRIMARY KEY,
	sha    BLOB NOT NULL UNIQUE,
	size   INTEGER NOT NULL,
	header BLOB NOT NULL,
	state  INTEGER NOT NULL,
	reason TEXT NOT NULL DEFAULT '',  -- why it does not open
	tries  INTEGER NOT NULL DEFAULT 0, -- how often a session broke off within it
	head   BLOB,                      -- what was opened, but for the text
	sent   INTEGER NOT NULL DEFAULT 0 -- whether it is a copy of what the user sent
);
CREATE INDEX content_wanted ON content (id) WHERE state = 0;

CREATE TABLE body (
	id     INTEGER PRIMARY KEY,       -- the content's
	text   BLOB,
	sealed BLOB                       -- the message as it came
);

CREATE TABLE entry (
	number   INTEGER PRIMARY KEY,
	change   INTEGER NOT NULL,
	came     INTEGER NOT NULL,
	standing INTEGER NOT NULL,
	flags    INTEGER NOT NULL,
	keywords BLOB NOT NULL,           -- as sealed
	words    TEXT,                    -- NULL where they do not open
	content  INTEGER NOT NULL,
	attached INTEGER NOT NULL,        -- whether it has attachments
	shown    INTEGER NOT NULL,
	labels   TEXT NOT NULL,
	gone     INTEGER NOT NULL
);
CREATE INDEX entry_content ON entry (content, gone, shown, attached); -- what filters look at

CREATE TABLE intent (
	content INTEGER PRIMARY KEY,
	version INTEGER NOT NULL,         -- another one after each change
	mask    INTEGER NOT NULL,
	flags   INTEGER NOT NULL,
	plus    TEXT NOT NULL,
	minus   TEXT NOT NULL,
	force   INTEGER NOT NULL,         -- keywords that do not open are replaced
	gone    INTEGER NOT NULL
);

CREATE TABLE draft (
	id      INTEGER PRIMARY KEY AUTOINCREMENT,
	changed INTEGER NOT NULL,
	body    BLOB NOT NULL
);

CREATE TABLE letter (
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	queued INTEGER NOT NULL,
	body   BLOB NOT NULL
);

CREATE TABLE copy (
	id        INTEGER PRIMARY KEY AUTOINCREMENT,
	letter    INTEGER NOT NULL,
	recipient TEXT NOT NULL,
	state     INTEGER NOT NULL,
	changed   INTEGER NOT NULL,
	size      INTEGER NOT NULL DEFAULT 0,
	digest    BLOB,
	receipt   BLOB,
	reason    TEXT NOT NULL DEFAULT '',
	UNIQUE (letter, recipient)
);

CREATE TABLE chunk (
	id   INTEGER PRIMARY KEY,         -- the copy's times 2^20, and a count
	data BLOB NOT NULL
);

CREATE VIRTUAL TABLE texts USING fts5 (
	subject, text, names, sender, receiver,
	content = '', contentless_delete = 1, tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'", prefix = '2 3'
);
`

// extend adds what a database lacks that was made before. A program that does not know of it can still use the
// database, so that no drafts are set aside.
func (d *db) extend() error {
	n, err := d.integer(`SELECT count(*) FROM pragma_table_info('content') WHERE name = 'sent'`)
	if err != nil || n > 0 {
		return err
	}
	return d.exec(`ALTER TABLE content ADD COLUMN sent INTEGER NOT NULL DEFAULT 0`)
}
