package spool

import "context"

// Probe returns once the committer has come by, without a commit and without touching
// the disk: it takes its turn in the queue that messages wait in, so it waits for the
// flush that runs now, and no longer than that. It fails when the spool has stopped, when
// it is closed, or when ctx ends before: then the committer is where it was.
func (s *Spool) Probe(ctx context.Context) error {
	if s.readOnly {
		return ErrReadOnly
	}
	_, err := s.submit(ctx, &request{probe: true, answer: make(chan answer, 1)})
	return err
}

// answerProbes answers the probes among requests, and returns the others.
func (s *Spool) answerProbes(requests []*request) []*request {
	rest := requests[:0]
	for _, r := range requests {
		if r.probe {
			r.answer <- answer{err: s.failed()}
		} else {
			rest = append(rest, r)
		}
	}
	clear(requests[len(rest):])
	return rest
}
