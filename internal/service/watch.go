package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A Probe asks a part of the daemon whether it still does its work.
type Probe struct {
	What string // the part, in words
	// Ask returns once the part has answered, or ctx ends. It is not called again before.
	Ask func(ctx context.Context) error
}

// rounds is how often the probes are asked in the time after which the manager loses
// its patience: one that is late for once has time to come.
const rounds = 3

// errLate is what becomes of a probe that does not return at all.
var errLate = errors.New("there was no answer in time")

// Watch feeds the watchdog until ctx ends: each time that all of the probes have
// answered, and not otherwise. What does not answer is in the log.
func (m *Manager) Watch(ctx context.Context, probes ...Probe) error {
	if m == nil || m.Notify == nil || m.Watchdog <= 0 {
		<-ctx.Done()
		return nil
	}
	asked := make([]chan error, len(probes))
	round := m.Watchdog / rounds
	tick := time.NewTicker(round)
	defer tick.Stop()
	for starved := false; ; {
		err := ask(ctx, round, probes, asked)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			starved = true
			m.log().Error("the watchdog is not fed", "err", err, "ends_after", m.Watchdog)
		default:
			if starved {
				starved = false
				m.log().Info("the watchdog is fed again")
			}
			m.tell(sd.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// ask asks all probes at once, and returns when they have answered or the time is over.
// asked holds, for each probe that has not returned from an earlier round, where it will.
func ask(ctx context.Context, within time.Duration, probes []Probe, asked []chan error) (failed error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	earlier := make([]bool, len(probes))
	for i, p := range probes {
		if earlier[i] = asked[i] != nil; !earlier[i] {
			asked[i] = p.start(ctx)
		}
	}
	for i, p := range probes {
		err := await(ctx, &asked[i])
		if earlier[i] && asked[i] == nil { // what it says is about another time
			asked[i] = p.start(ctx)
			err = await(ctx, &asked[i])
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.What, err))
		}
	}
	return failed
}

func (p Probe) start(ctx context.Context) chan error {
	answer := make(chan error, 1)
	go func() { answer <- p.Ask(ctx) }()
	return answer
}

// await takes an answer, and sets where it comes to nil, or fails at the end of ctx.
func await(ctx context.Context, answer *chan error) error {
	select {
	case err := <-*answer:
		*answer = nil
		return err
	case <-ctx.Done():
		return errLate
	}
}
