package session

import (
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/provenance"
)

// How far the time of a sender entry may be from the server's (docs/protocol.md section
// 21): a letter may have waited to be submitted as long as mail waits in a queue.
const (
	senderAhead  = time.Hour
	senderBehind = 10 * 24 * time.Hour
)

var errSenderTime = errors.New("the time of the message's sender entry is too far from the server's")

// checkSender reports why a message with a source of this server's is refused for its
// sender entry, of which it may have none. That of a source elsewhere is left to who reads
// the message: here nobody knows that account's keys.
func (s *Server) checkSender(m *cmtp.MessageReader, digest [32]byte, to delivery) error {
	if to.foreign {
		return nil
	}
	h := m.Header()
	sender, err := provenance.SenderOf(h, m.Log())
	if sender == nil || err != nil {
		return err
	}
	a, err := s.cfg.Directory.Resolve(h.SourceAccount, h.SourceDomain)
	if err != nil {
		return fmt.Errorf("its source: %w", err)
	}
	var keys []provenance.Key
	if a != nil {
		for i := range a.Statements {
			keys = append(keys, provenance.KeyOf(&a.Statements[i].KeyStatement))
		}
	}
	if _, err := provenance.Check(sender, digest, keys); err != nil {
		return err
	}
	now := s.cfg.Now()
	if sender.When > crypt.UnixTimeOf(now.Add(senderAhead)) || sender.When < crypt.UnixTimeOf(now.Add(-senderBehind)) {
		return errSenderTime
	}
	return nil
}
