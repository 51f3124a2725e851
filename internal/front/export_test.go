package front

import (
	"net"
	"net/netip"
	"time"

	"cmtpd/internal/netbuf"
)

var ProxyLength = proxyLength

type Tally = tally

var NewTally = newTally

func (t *tally) Add(kind int, who netip.AddrPort) { t.add(kind, who) }
func (t *tally) Stop()                            { t.stop() }

// ReadProxy takes a PROXY header off b and returns what is left.
func ReadProxy(b []byte) (left []byte, client netip.AddrPort, err error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go theirs.Write(b)
	in := netbuf.NewReader(ours)
	for len(in.Buffered()) < len(b) {
		if err := in.Fill(); err != nil {
			return nil, client, err
		}
	}
	client, _, err = readProxy(in)
	return in.Buffered(), client, err
}

const DoorstepRoom = doorstepRoom

// A Doorstep is what lets refused connections wait.
type Doorstep struct{ doorstep }

func NewDoorstep(delay time.Duration) *Doorstep { return &Doorstep{doorstep{delay: delay}} }

func (d *Doorstep) Keep(c net.Conn, tell func()) { d.keep(c, tell) }
func (d *Doorstep) Close()                       { d.close() }
