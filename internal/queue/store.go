package queue

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// Spool is the Store that a spool is.
type Spool struct{ *spool.Spool }

// Header implements Store.
func (s Spool) Header(id spool.ID) (cmtp.Header, error) {
	r, err := s.Open(id)
	if err != nil {
		return cmtp.Header{}, err
	}
	defer r.Close()
	m, err := cmtp.NewMessageReader(bufio.NewReaderSize(io.NewSectionReader(r, 0, r.Size()), 512), math.MaxInt64)
	if err != nil {
		return cmtp.Header{}, fmt.Errorf("%w: message %s: %w", cmtp.ErrMessage, id, err)
	}
	return *m.Header(), nil
}
