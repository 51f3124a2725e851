package checkup

import "golang.org/x/sys/unix"

// clockKept reports whether something keeps the kernel's clock right, as far as it was told.
// known is false where it cannot be asked.
func clockKept() (kept, known bool) {
	state, err := unix.Adjtimex(new(unix.Timex))
	return state != unix.TIME_ERROR, err == nil
}
