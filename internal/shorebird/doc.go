// Package shorebird is the client of CMTP for people: the program behind
// cmd/shorebird, without a process around it.
//
// It guarantees that a letter is sealed only to a key that the recipient's server
// signed a moment ago, with the key by which that server is known, and that nothing of it
// is sent to anybody after any look-up failed; that a letter in the outbox is not lost and
// arrives once; that a server that shows another key
// than the one remembered, which that one has not named, stops everything, and so does
// an address's key that does not follow from the one remembered, and a domain that has
// spoken CMTP 1 and does not any more, and sealed keys of the user's that are of an older
// version than before, or cheaper than any writer makes them; that no key of the user's is
// lost, whenever the program or the network breaks off, or another one runs beside it on
// the same machine; that no secret comes from an argument, that no
// password is ever empty, and that a script is never asked; and that nothing a stranger
// wrote steers the terminal.
//
// # Files
//
//	$XDG_CONFIG_HOME/shorebird/config.toml           account, server, sent_copies, [servers], [accounts]; optional
//	$XDG_DATA_HOME/shorebird/servers.json            by domain: the server's key, as first seen, whether it spoke CMTP 1, and who told
//	$XDG_DATA_HOME/shorebird/contacts.json           by address: the key, as first seen, whether it was seen again, the digest of the newest statement, and another key that was refused
//	$XDG_DATA_HOME/shorebird/accounts.json           by the user's own addresses: digests of the server's xzibit, its version, and the key at that time
//	$XDG_DATA_HOME/shorebird/ADDRESS.xzibit          an account's keys, sealed under its password
//	$XDG_DATA_HOME/shorebird/ADDRESS.xzibit.pending  such that were sent to the server, until it has answered
//	$XDG_DATA_HOME/shorebird/ADDRESS.mailbox         the copy of the mailbox: see package cache
//	$XDG_DATA_HOME/shorebird/ADDRESS.lock            locked by who reads those two to change them, until it has; others wait for --timeout
//
// An account name is only data, so in the file's name what is not a lower-case
// letter, a digit or one of .-_+@ stands as its UTF-8 bytes in %XX. Keys that are in the
// way of others are moved to the name with the time behind it, never removed. The command
// open tries the newest 16 of them on a letter that the account's keys do not open.
//
// ADDRESS.xzibit is of version 2, which opens without the server; what the server has is
// of version 3. Where the desktop has a keyring it has the opened keys, too: service
// "shorebird", the address for the user, and for the secret the base64 of the digest of
// the server's xzibit that they came from and of the keyring (protocol.md section 8.2).
// An entry that came from another xzibit than the file is not used. The same, but for the base64, is what unlock gives the Linux
// kernel (package kernelring), by the name "shorebird ADDRESS DIRECTORY", both spelled like files. lock, and its time, take it away;
// keys that are saved here replace it until the same time, and those of an upload whose answer did not come take it away.
//
// # Other domains
//
// Where an account is known (account, --account, --from) and a place of its own domain's
// server (server, [servers], server under [accounts."ADDRESS"], --server), that server is asked for the keys of all other
// domains, proven to be the account's user, and takes the letters for them into its queue
// (docs/protocol.md sections 19.1 and 19.7). It hands on what the other server has signed,
// which is checked; what it says by itself is that server's key and what vouches for it.
// The key is remembered in servers.json as if it had been met, with told_by, the domain of
// the account, and vouched: first_contact, dns, dnssec or operator. Another key that the
// remembered one has not named is refused whatever vouches for it, until keys --forget.
//
// What that server takes is signed with the account's newest key, in the letter's log
// (docs/protocol.md section 17.6).
//
// A domain that [servers] names is asked directly, every domain is with --direct, and so is
// the server that the account's domain has in CMTP 0.01.
//
// # The outbox
//
// Where the source's keys are on this machine, a letter goes by way of the outbox in ADDRESS.mailbox:
//
//	all keys are looked up; the letter is queued; each copy is sealed, and its bytes kept;
//	only then the first is sent; what the server says of each is noted; and when all have
//	arrived the letter is removed
//
// A copy whose answer is lost, with the process or the network, is sent again in the same bytes, which
// the server knows by their core digest (docs/protocol.md section 6.4). Before it is, its recipient's key is
// looked up again, and judged. A letter that no key can be had for now (exit status 75) is queued
// unsealed. What waits goes with the next send, sync or outbox send; what a server has refused for
// good is kept until outbox send --again or outbox drop. A letter is locked by who sends it, so that
// others can be sent meanwhile.
//
// Up to 64 MiB of a letter, text and attachments of all copies together, are kept so. A longer one, one with
// --no-outbox, and one whose source has no keys here, or no password to be had for them, is sent
// directly, and kept nowhere when that fails. What was sent with --direct goes so later, too. Attachments are files until the letter is sealed, and
// another file by then is an error.
//
// The copy that the sender keeps (docs/protocol.md section 29.5) is sealed with the others, and sent once one of them has
// arrived, so that it is kept once, too. It is no reason for a letter to fail: with a full mailbox it is given up, with a warning, and what
// else keeps it back lets it wait in the outbox. Its 64 MiB come on top of those of the letter. Of a letter that is not in the outbox
// it is sent behind the letter, and lost where that breaks off; a longer one leaves none. Nor does one to the user alone, which is
// in the mailbox anyway, nor one that goes past the user's own server, which would learn of it so; --no-copy and sent_copies = false
// want none.
//
// # Composing
//
// At a terminal, send, reply, forward and drafts edit have a letter written in $VISUAL or $EDITOR, unless
// --text names a file. The letter is a file of mode 0600 in a directory of its own, in $XDG_RUNTIME_DIR or
// /dev/shm where they are there, which lie in memory; it is removed when the letter is sent or a draft.
// Drafts are in ADDRESS.mailbox. A failing editor, a file that was not changed, and an empty text send
// nothing and keep a draft. Without an account's keys what was written stays in that file, and
// it is said where.
//
// # Where a letter comes from
//
// open says of a letter's source whether its key has signed that it submitted the letter,
// or its domain's server says so, by the keys in contacts.json and servers.json; that
// neither is known; or, as a warning, that what came with the letter is false. With --check
// the source's keys are asked for first, with those that it had, and remembered, as by
// keys; where that fails, the letter is shown with why. Nobody is asked without it, since
// the server of the source's domain would learn that the letter is read. OpenReport has
// proof (sender, domain, unproven or false), proof_text, proof_fingerprint and check_error.
//
// # The mailbox
//
// list, read, save, search, flag, delete and watch work from the copy of the mailbox on this
// machine. All but watch and sync do without a server that is not reached within fifteen
// seconds, and say of when the copy is; a server that is reached and is not the right one, or
// refuses, is an error, after what is here was shown. A change that the server has not heard of
// is told by the next command that reaches it.
//
// The number that a person types is given when a message is first shown; read, save, reply and forward give numbers as list would
// where there is none with the one that was typed, and flag and delete do not. It is of this machine
// alone, never given to another message, and stays when the mailbox has another epoch.
//
// What a stranger wrote is shown in lines of the program's own: whatever is not just shown stands as
// U+FFFD (package letter), blanks in a row are one, and a field that is longer than the terminal is wide goes on
// in lines that are set in. In a list it is clipped. A letter's text is broken between words at the terminal's width. What is longer than the
// terminal is high, of read and open, goes to $PAGER or less -R, in which LESSSECURE=1 keeps less from running or writing anything; not
// with --no-pager or --json, nor elsewhere than at a terminal. Meanwhile other processes can work with the account's keys.
//
// # How far a contact can be trusted
//
// trust says it in one word: first contact, remembered, DNSSEC, operator or changed. The last
// one says that a key was shown which does not follow from the one that is remembered; nothing is
// sent until that one is shown again, or the other accepted by trust accept or keys
// --accept-new-key. trust show has the safety words of docs/protocol.md section 29.4. A colour
// stands beside a word, at a terminal, unless NO_COLOR is set or TERM is dumb.
//
// # Secrets
//
// The password is the first line of what --password-stdin, SHOREBIRD_PASSWORD_FILE (a
// file, or /dev/fd/N) or SHOREBIRD_PASSWORD_FD (the number of an open descriptor, 3 or
// more) leads to; for passwd the new one is the second line, and for register and
// recover --words the new one is the first. An invitation's code comes from --code-stdin
// or SHOREBIRD_CODE_FILE, a recovery key's words from --words-stdin or
// SHOREBIRD_WORDS_FILE. Otherwise a person is asked at the terminal, and where there is
// none the command fails. --no-keyring, or SHOREBIRD_NO_KEYRING with any value, keeps the
// desktop keyring and the kernel out; the desktop gets a minute at a terminal and three seconds without.
//
// # After a theft
//
// Who has stolen a device or a password may have the account's key and its password, so
// that passwd and rotate are both needed: passwd alone leaves the key in force, and rotate
// alone the password. The words of a recovery key stay good through both; passwd
// --new-recovery revokes them, and so does a reset. A thief who was first, and has changed
// key or password, can only be put out by the operator's reset (cmtpd user invite --reset).
// What was copied before stays readable to who has it.
//
// # Exit statuses
//
// They are stable; the help topic exit-codes lists them too.
//
//	0    done
//	1    failed
//	2    wrong use
//	3    the server refused; in CMTP 1 it says why
//	4    a key or a signature is not what it must be; nothing was sent or saved
//	5    the password, or a recovery key's words, are wrong, or a secret is missing
//	75   failed for now; trying again later may help, and is not needed for a letter in the outbox
//	130  interrupted
//
// # JSON
//
// With --json each command prints one object on standard output, and an error is one
// object on standard error, with the fields error, hint (may be absent) and code, the
// exit status. Keys are base64, times RFC 3339 in UTC. Fields may be added, none is
// renamed. See the types KeysReport, ForgetReport, AccountReport, RecoverReport,
// SendReport, OpenReport, SyncReport, ListReport, ReadReport, SaveReport, MarkReport, TrustReport, TrustListReport,
// OutboxReport, FlushReport, DraftsReport, RemovedReport, DeviceReport, AccountsReport, UnlockReport, LockReport and
// VersionReport; watch prints a MessageReport a line. KeysReport, and in SendReport each copy that
// was sent, has the field home where the user's own server has answered: its domain,
// server_key, server_fingerprint, and vouched; server is then its place, and server_key,
// trust and protocol are of the other domain's server, as it tells. A copy that it will
// deliver has queued, true, and the own server's receipt. In SendReport, which reply and forward print, too,
// a copy that failed for now has kept, true, where the outbox has it, and outbox is then the letter's
// number; copy is what became of the copy that the sender keeps: kept, later or refused, with copy_error. AccountReport may have the words of a
// recovery key: they are secret, and nowhere else.
package shorebird
