// Package shorebird is the client of CMTP for people: the program behind
// cmd/shorebird, without a process around it.
//
// It guarantees that a letter is sealed only to a key that the recipient's server
// signed a moment ago, with the key by which that server is known, and that nothing
// is sent to anybody after any look-up failed; that a server that shows another key
// than the one remembered stops everything; that no password comes from an argument
// or is ever empty; and that nothing a stranger wrote steers the terminal.
//
// # Files
//
//	$XDG_CONFIG_HOME/shorebird/config.toml   account, server, [servers]; optional
//	$XDG_DATA_HOME/shorebird/servers.json    the servers' keys by domain, as first seen
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
//	3    the server refused; it does not say why
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
