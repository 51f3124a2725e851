package spool

import "crypto/sha256"

// A prover is a scanner on a goroutine of its own: it reads a segment and takes the SHA-256 of
// its messages, a few buffers ahead of the walker, which checks signatures meanwhile.
type prover struct {
	full  chan proven   // closed at the end
	empty chan []byte   // buffers that nobody uses
	stop  chan struct{} // closed when nobody reads on
	now   proven
}

// proven is what one buffer held.
type proven struct {
	records []scanned
	buf     []byte
	err     error // why there is no more; io.EOF at the segment's end
}

// proverBuffers is how many buffers there are: one is filled, one waits, one is read.
const proverBuffers = 3

// prove begins to read what s has to read. The caller reads with next, and calls close.
func prove(s *scanner) *prover {
	p := &prover{full: make(chan proven, proverBuffers), empty: make(chan []byte, proverBuffers), stop: make(chan struct{})}
	for range proverBuffers - 1 {
		p.empty <- nil
	}
	go p.run(s)
	return p
}

// next is the scanner's, with the sum of each message.
func (p *prover) next() (scanned, error) {
	for len(p.now.records) == 0 {
		if p.now.err != nil {
			return scanned{}, p.now.err
		}
		if p.now.buf != nil {
			p.empty <- p.now.buf
		}
		p.now = <-p.full
	}
	r := p.now.records[0]
	p.now.records = p.now.records[1:]
	return r, nil
}

// close waits until nothing reads the segment any more.
func (p *prover) close() {
	close(p.stop)
	for range p.full {
	}
}

func (p *prover) run(s *scanner) {
	defer close(p.full)
	var records []scanned
	// Before the scanner fills its buffer again, what is in it goes to the reader.
	s.swap = func(buf []byte) []byte {
		p.full <- proven{records: records, buf: buf}
		records = nil
		select {
		case buf = <-p.empty:
			return buf
		case <-p.stop:
			return nil
		}
	}
	for {
		select {
		case <-p.stop:
			return
		default:
		}
		r, err := s.next()
		if err != nil {
			p.full <- proven{records: records, buf: s.buf, err: err}
			return
		}
		if r.kind == kindMessage && !r.damaged {
			r.sum = sha256.Sum256(r.data)
		}
		records = append(records, r)
	}
}
