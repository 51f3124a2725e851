// Command shorebird is the client: it finds keys, recovers its user's own, and
// sends and opens mail that only its reader can read.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cmtpd/internal/keyfile"
	"cmtpd/internal/shorebird"
)

func main() {
	if err := keyfile.ForbidCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "shorebird: warning:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(shorebird.System().Run(ctx, os.Args[1:]))
}
