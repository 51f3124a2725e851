// Package shorebird is the client of CMTP for people: the program behind
// cmd/shorebird, without a process around it.
//
// It guarantees that a letter is sealed only to a key that the recipient's server
// signed a moment ago, with the key by which that server is known, and that nothing
// is sent to anybody after any look-up failed; that a server that shows another key
// than the one remembered, which that one has not named, stops everything, and so does
// an address's key that does not follow from the one remembered, and a domain that has
// spoken CMTP 1 and does not any more; that no password comes from an argument or is
// ever empty; and that nothing a stranger wrote steers the terminal.
//
// # Files
//
//	$XDG_CONFIG_HOME/shorebird/config.toml   account, server, [servers]; optional
//	$XDG_DATA_HOME/shorebird/servers.json    by domain: the server's key, as first seen, and whether it spoke CMTP 1
//	$XDG_DATA_HOME/shorebird/contacts.json   by address: the key, as first seen, and the digest of the newest statement
//	$XDG_DATA_HOME/shorebird/ADDRESS.xzibit  an account's keys, sealed under its password
//
// An account name is only data, so in the file's name what is not a lower-case
// letter, a digit or one of .-_+@ stands as its UTF-8 bytes in %XX.
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
//	5    the password is wrong or empty
//	75   failed for now; trying again later may help
//	130  interrupted
//
// # JSON
//
// With --json each command prints one object on standard output, and an error is one
// object on standard error, with the fields error, hint (may be absent) and code, the
// exit status. Keys are base64, times RFC 3339 in UTC. Fields may be added, none is
// renamed. See the types KeysReport, ForgetReport, RecoverReport, SendReport,
// OpenReport and VersionReport.
package shorebird
