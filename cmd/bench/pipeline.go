package main

import (
	"errors"
	"sync"
	"time"
)

// inFlight is how many messages wait for their receipts on one connection, as many as of
// a queue's (internal/client, SendAll).
const inFlight = 32

// pipelined sends total messages over conns connections without waiting for one before the
// next, and returns receipts a second.
func (l *lab) pipelined(s side, addr string, conns, size, total int) (float64, error) {
	var wg sync.WaitGroup
	errs := make([]error, conns)
	send := s.pipelined(inFlight)
	start := time.Now()
	for i := range conns {
		wg.Go(func() { _, errs[i] = send(addr, l.serial(), size, total/conns) })
	}
	wg.Wait()
	took := time.Since(start)
	return float64(total/conns*conns) / took.Seconds(), errors.Join(errs...)
}
