package kernelring_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/kernelring"
)

// name is of this test and process alone; nothing of it is left.
func name(t *testing.T) string {
	var ring kernelring.Ring
	n := fmt.Sprintf("cmtpd test %s %d", t.Name(), os.Getpid())
	if _, _, err := ring.Get(n); errors.Is(err, kernelring.ErrUnavailable) {
		cmtptest.LeaveOut(t, "this machine refuses the kernel's keyring: "+err.Error())
	} else if !errors.Is(err, kernelring.ErrNotFound) {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ring.Delete(n); err != nil && !errors.Is(err, kernelring.ErrNotFound) {
			t.Error(err)
		}
	})
	return n
}

func TestRing(t *testing.T) {
	var ring kernelring.Ring
	n := name(t)
	if err := ring.Delete(n); !errors.Is(err, kernelring.ErrNotFound) {
		t.Errorf("nothing is forgotten: %v", err)
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	for _, secret := range [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), 5000)} {
		if err := ring.Set(n, secret, until); err != nil {
			t.Fatal(err)
		}
		got, when, err := ring.Get(n)
		if err != nil || !bytes.Equal(got, secret) || !when.Equal(until) {
			t.Errorf("%.10q until %v, %v; want %.10q until %v", got, when, err, secret, until)
		}
	}
	if err := ring.Delete(n); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.Get(n); !errors.Is(err, kernelring.ErrNotFound) {
		t.Errorf("it is forgotten: %v", err)
	}
}

// The kernel forgets it by itself, shows it to no group and no stranger, and lets nobody lengthen its time.
func TestRing_Kernel(t *testing.T) {
	var ring kernelring.Ring
	n := name(t)
	if err := ring.Set(n, []byte("secret"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", n, 0)
	if err != nil {
		t.Fatal(err)
	}
	described, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	if want := fmt.Sprintf("user;%d;%d;1b0b0000;%s", os.Getuid(), os.Getgid(), n); err != nil || described != want {
		t.Errorf("it is %q, %v; want %q", described, err, want)
	}
	keys, err := os.ReadFile("/proc/keys") // proc_keys(5): serial, flags, usage, time left
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(fmt.Sprintf(`(?m)^%08x \S+ +\d+ +(59m|60m|1h) `, id)).Match(keys) {
		t.Errorf("key %08x does not end in an hour:\n%s", id, keys)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, id, 0, 0, 0); !errors.Is(err, unix.EACCES) {
		t.Errorf("its time can be lengthened: %v", err)
	}
	if err := ring.Set(n, []byte("x"), time.Now()); err == nil {
		t.Error("a secret is kept whose time is over")
	}
	if err := ring.Set(n, make([]byte, kernelring.MaxSecret+1), time.Now().Add(time.Hour)); err == nil {
		t.Error("a secret is kept that is too long")
	}
	if got, _, err := ring.Get(n); err != nil || string(got) != "secret" {
		t.Errorf("what was refused has changed it: %q, %v", got, err)
	}
}

// A session that has no link to the user's keyring, as that of a job at night, finds the same.
func TestRing_Session(t *testing.T) {
	var ring kernelring.Ring
	n := name(t)
	if err := ring.Set(n, []byte("secret"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	elsewhere := make(chan error)
	go func() {
		runtime.LockOSThread()                                                 // for ever: the thread ends with the session
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) // without a name
		if err == nil {
			var got []byte
			if got, _, err = ring.Get(n); err == nil && string(got) != "secret" {
				err = fmt.Errorf("got %q", got)
			}
		}
		if err == nil {
			err = ring.Set(n, []byte("another"), time.Now().Add(time.Hour))
		}
		elsewhere <- err
	}()
	if err := <-elsewhere; err != nil {
		t.Fatal(err)
	}
	if got, _, err := ring.Get(n); err != nil || string(got) != "another" {
		t.Errorf("%q, %v", got, err)
	}
}
