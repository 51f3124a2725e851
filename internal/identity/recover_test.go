package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/identity"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/trust"
)

// losing returns a server that has announced a successor, which is in the file.
func losing(t *testing.T) (s *rotating, file string) {
	s, file = newRotating(t), filepath.Join(t.TempDir(), "successor.key")
	s.do(func() (identity.StepView, error) { return s.rotation(false).Successor(t.Context(), file) })
	return s, file
}

func (s *rotating) recover(file string) func() (identity.StepView, error) {
	return func() (identity.StepView, error) { return s.rotation(false).Recover(s.t.Context(), file) }
}

func (s *rotating) lose() crypt.PublicKey {
	s.t.Helper()
	key, err := keyfile.Load(s.cfg.KeyFile())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Remove(s.cfg.KeyFile()); err != nil {
		s.t.Fatal(err)
	}
	return key.Public()
}

func (s *rotating) make(path string) {
	s.t.Helper()
	if _, _, err := keyfile.LoadOrCreate(path); err != nil {
		s.t.Fatal(err)
	}
}

// A key that is there, and one that others would hold mail for, are refused unless told.
func TestRotation_Recover_Refuses(t *testing.T) {
	s, file := losing(t)
	s.refused(identity.ErrKeyThere, "rotate --now --from", s.recover(file))
	s.force = true
	s.refused(identity.ErrKeyThere, "rotate --now --from", s.recover(file)) // it can sign, so nothing else is right
	s.force = false
	was := s.lose()
	s.make(s.cfg.KeyFile()) // as a start of an older version would
	s.refused(identity.ErrKeyThere, "with --force; it goes aside", s.recover(file))
	if err := os.Remove(s.cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	s.make(other)
	if _, err := s.recover(other)(); !errors.Is(err, identity.ErrSuccessor) || !strings.Contains(err.Error(), "for seven days") {
		t.Errorf("another key than the successor: %v", err)
	}
	if _, err := s.recover(filepath.Join(t.TempDir(), "none"))(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(s.cfg.SpoolDir()); err != nil {
		t.Errorf("a refusal has moved the spool: %v", err)
	}
	s.make(s.cfg.KeyFile())
	s.force = true
	s.do(s.recover(file))
	lost := identity.LostPath(s.cfg.DataDir, was)
	if _, err := keyfile.Load(filepath.Join(lost, "server.key")); err != nil {
		t.Errorf("the key that was made meanwhile: %v", err)
	}
	s.refused(identity.ErrKeyThere, "it is this one", s.recover(file))
}

// Wherever it is cut short it goes on, and ends the same.
func TestRotation_Recover_CutShort(t *testing.T) {
	for cut := range 4 {
		s, file := losing(t)
		was := s.lose()
		lost := identity.LostPath(s.cfg.DataDir, was)
		if err := os.WriteFile(s.cfg.KeyFile(), []byte("a damaged key"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { return os.Mkdir(lost, 0o700) },
			func() error { return os.Rename(s.cfg.KeyFile(), filepath.Join(lost, "server.key")) },
			func() error {
				return errors.Join(os.Remove(s.cfg.SpoolKeyFile()), os.Rename(s.cfg.SpoolDir(), filepath.Join(lost, "spool")))
			},
		}[:cut] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		v := s.do(s.recover(file))
		key, err := keyfile.Load(file)
		if err != nil || v.Key.Fingerprint != key.Public().String() || v.Successor != nil || len(v.Domains) == 0 {
			t.Errorf("cut %d: %+v, %v", cut, v, err)
		}
		for _, name := range []string{"server.key", "spool"} {
			if _, err := os.Stat(filepath.Join(lost, name)); err != nil {
				t.Errorf("cut %d: %v", cut, err)
			}
		}
		for _, path := range []string{s.cfg.SpoolDir(), s.cfg.SpoolKeyFile(), keyfile.SuccessorPath(s.cfg.KeyFile())} {
			if !missing(path) {
				t.Errorf("cut %d: %s is there", cut, path)
			}
		}
	}
}

// A spool that a key which is there can hand over stays.
func TestRotation_Recover_FormerSpool(t *testing.T) {
	s, file := losing(t)
	s.force = true
	s.do(func() (identity.StepView, error) { return s.rotation(false).Now("") }) // and no start since then
	s.lose()
	s.do(s.recover(file))
	if missing(s.cfg.SpoolDir()) || missing(s.cfg.SpoolKeyFile()) {
		t.Error("the spool is gone")
	}
}

// Nobody is told to trust the lost key any more, and keys of the domain's other servers stay.
func TestRotation_Recover_Records(t *testing.T) {
	s, file := losing(t)
	other := filepath.Join(t.TempDir(), "other")
	s.make(other)
	another, err := keyfile.Load(other)
	if err != nil {
		t.Fatal(err)
	}
	key := func(k crypt.PublicKey) string { return "p=" + trust.Public{PublicKey: k}.Base64() }
	before := s.keys().Records
	for i := range before {
		before[i].Zone = strings.Replace(before[i].Zone, "p=", key(another.Public())+"; p=", 1)
	}
	s.publish(before)
	was := s.lose()
	after := s.do(func() (identity.StepView, error) { return s.rotation(true).Recover(t.Context(), file) })
	for _, d := range after.Domains {
		if strings.Contains(d.Record, key(was)) || !strings.Contains(d.Record, key(another.Public())) || !strings.Contains(d.Record, "p="+after.Key.Key) {
			t.Errorf("to be published: %s", d.Record)
		}
		if f := strings.Join(d.DNS.Faults, "; "); !strings.Contains(f, "names the lost key "+was.String()) {
			t.Errorf("what is published: %s", f)
		}
	}
	s.publish(after.Domains)
	for _, d := range s.keys().Records {
		if !d.DNS.Right {
			t.Errorf("published as said: %q", d.DNS.Faults)
		}
	}
	for i := range before { // by hand, with the lost key beside
		before[i].Zone = strings.Replace(after.Domains[i].Zone, "p=", key(was)+"; p=", 1)
	}
	s.publish(before)
	for _, d := range s.keys().Records {
		if d.DNS.Right || len(d.DNS.Faults) != 1 {
			t.Errorf("with the lost key: %q", d.DNS.Faults)
		}
	}
}

func missing(path string) bool { _, err := os.Stat(path); return os.IsNotExist(err) }
