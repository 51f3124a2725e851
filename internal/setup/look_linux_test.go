package setup_test

import (
	"io"
	"net"
	"os"
	"slices"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/setup"
)

// TestLook_ThisMachine: the kernel's own lists say who has the port.
func TestLook_ThisMachine(t *testing.T) {
	addr := cmtptest.Loopback() + ":25"
	l, err := net.Listen("tcp", addr)
	if err != nil {
		cmtptest.LeaveOut(t, "port 25 is only root's: "+err.Error())
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 mx ESMTP Exim 4.96\r\n")
			c.Close()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := setup.Look(t.Context(), setup.ThisMachine())
	if f.Port25 == nil || !slices.Contains(f.Port25.Addresses, addr) {
		t.Fatalf("it found %+v", f.Port25)
	}
	if len(f.Port25.Addresses) == 1 && (f.Port25.Program != self || f.Port25.Kind != setup.Exim) {
		t.Errorf("it found %+v; this is %s", f.Port25, self)
	}
}
