package checkup

import (
	"context"
	"fmt"
	"os"
	"time"
)

// ahead is how far the newest write may lie in the future before the clock is doubted.
const ahead = 5 * time.Minute

// clock looks whether the time can be believed: it stands in receipts and commits, ends invitations
// and rotations, and decides when mail is given up.
func (c *checkup) clock(context.Context) (found []Finding) {
	newest := c.newestWrite()
	if by := time.Until(newest); by > ahead {
		found = problem(fmt.Sprintf("the clock is behind: the spool was written to %v from now, at %s", by.Round(time.Second), newest.UTC().Format(time.DateTime+" MST")),
			"set the clock before cmtpd signs anything with its time")
	}
	if kept, known := clockKept(); known && !kept {
		found = append(found, Finding{Note: true, Text: "nothing is known to keep the clock right",
			Remedy: "install chrony or systemd-timesyncd, unless the machine outside of a container has one"})
	}
	return found
}

// newestWrite returns when the log was last written to, as its file system says.
func (c *checkup) newestWrite() (newest time.Time) {
	segments, _ := c.segments() // why they cannot be listed is for the check of the spool to say
	for _, path := range segments {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}
