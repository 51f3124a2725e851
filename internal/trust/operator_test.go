package trust_test

import (
	"testing"

	"cmtpd/internal/trust"
)

func TestState_Accept(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1), successor(5))
	w.meet(2)
	w.meet(3)
	w.meet(1, signed(1, 4), successor(5)) // 4 is published, and nobody has shown it
	for _, typed := range []string{public(2).String(), trust.Public{PublicKey: public(2)}.Base64()} {
		f, err := trust.ParseFingerprint(typed)
		if err != nil {
			t.Fatal(err)
		}
		next, err := w.state.Accept(w.now, f)
		if err != nil {
			t.Fatal(err)
		}
		v := &world{t, w.state, w.now}
		v.take(next)
		v.trusted(v.meet(2), trust.Operator)
		v.held(v.meet(3), trust.Pinned, 0)
		v.held(v.meet(1, signed(1)), trust.Pinned, 0)
		v.held(v.meet(5), trust.Pinned, 0)
	}
	for _, n := range []int{1, 4, 5, 6} { // known, published, announced, never seen
		f, err := trust.ParseFingerprint(public(n).String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.state.Accept(w.now, f); err == nil {
			t.Errorf("key %d was accepted", n)
		}
	}
	if _, err := w.state.Accept(w.now, trust.Fingerprint{}); err == nil {
		t.Error("nothing was accepted")
	}
}

func TestState_Forget(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1), successor(5), enforce(day))
	w.pin(1)
	w.take(w.state.Forget(w.now))
	v := w.meet(2, without)
	if w.trusted(v, trust.FirstContact); !v.First {
		t.Error("it is not a first contact")
	}
	if a := w.state.Actions; len(a) != 2 || a[0].Do != "pin" || a[1].Do != "forget" || !a[1].At.Equal(w.now) {
		t.Errorf("%+v", a)
	}
	for range 2 * trust.MaxActions {
		w.take(w.state.Forget(w.now))
	}
	if n := len(w.state.Actions); n != trust.MaxActions {
		t.Errorf("%d actions", n)
	}
}

func TestState_Pin_Full(t *testing.T) {
	w := newWorld(t)
	for n := 1; n <= trust.MaxKeys; n++ {
		w.pin(n)
	}
	w.pin(1)
	if _, err := w.state.Pin(w.now, trust.Public{PublicKey: public(20)}); err == nil {
		t.Error("one more was pinned")
	}
}

func TestParseFingerprint(t *testing.T) {
	for _, bad := range []string{"", "0000", "g" + public(1).String()[1:], public(1).String() + " 0", "AAAA", trust.Public{}.Base64()} {
		if f, err := trust.ParseFingerprint(bad); err == nil {
			t.Errorf("%q is read as %v", bad, f)
		}
	}
}
