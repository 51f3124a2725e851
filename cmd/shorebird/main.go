// Command shorebird is the client: it finds keys, recovers its user's own, and
// sends and opens mail that only its reader can read.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"cmtpd/internal/shorebird"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(shorebird.System().Run(ctx, os.Args[1:]))
}
