package datadir

import (
	"os/exec"
	"os/user"
	"strconv"
)

// As returns how a command line begins that root, or who may act as others, runs as the user of
// that name. A Debian whose root has a password has no sudo; runuser, which only root can use, is
// in all of them.
func As(name string) string {
	if _, err := exec.LookPath("sudo"); err != nil {
		return "runuser -u " + name + " -- "
	}
	return "sudo -u " + name + " "
}

// NameOf returns the name of a user, or "" of one that has none here.
func NameOf(uid uint32) string {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return u.Username
}
