// Command shorebird is the client: it makes and keeps its user's keys, finds those of
// others, and sends and opens mail that only its reader can read.
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

func main() { run(shorebird.System()) }

func run(app *shorebird.App) {
	if err := keyfile.ForbidCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "shorebird: warning:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(app.Run(ctx, os.Args[1:]))
}
