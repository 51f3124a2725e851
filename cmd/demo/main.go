// Command demo shows the whole of cmtpd on one machine, with nothing installed
// and nothing left behind: two users, a letter with a real file between them,
// what lies on disk of it, a letter to another domain's server, and ordinary mail
// through the same port.
//
// It runs the programs in bin/ as a person would. Every step checks what it says.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "the directory that holds cmtpd and shorebird")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := run(ctx, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "demo: FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("\nEverything above was checked, not only printed. The temporary folder is gone again.")
}

const (
	domain    = "demo.example"
	alice     = "alice@" + domain
	bob       = "bob@" + domain
	farDomain = "far.example"
	dora      = "dora@" + farDomain
	password  = "correct horse battery staple"
	subject   = "The licence that you asked for"
	text      = "Hello Bob,\n\nyou find it attached. Nobody between us can read this.\n\nAlice\n"
)

func run(ctx context.Context, bin string) (err error) {
	dir, err := os.MkdirTemp("", "cmtpd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	behind, err := startSink(domain)
	if err != nil {
		return err
	}
	defer behind.stop()
	names, err := startNames()
	if err != nil {
		return err
	}
	defer names.stop()
	s, err := newStage(ctx, bin, dir, domain, names, behind.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	far := filepath.Join(dir, "far")
	if err := os.Mkdir(far, 0o700); err != nil {
		return err
	}
	if s.far, err = newStage(ctx, bin, far, farDomain, names, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.far.stop()) }()
	for i, act := range []struct {
		title string
		do    func(*stage, *sink) error
	}{
		{"The administrator adds Bob, and invites Alice", addUsers},
		{"cmtpd starts: one port for two protocols, an ordinary mail server behind it", start},
		{"Alice registers: her keys are made on her machine, and the server never sees her password", register},
		{"Bob recovers his keys on a new machine, with nothing but his password", recoverKeys},
		{"Alice looks up Bob's key", lookUp},
		{"Alice sends Bob a letter with a file, sealed to his key", send},
		{"On the server's disk there is only ciphertext, and it is signed", inspect},
		{"Bob opens the letter: text and file are what Alice sent", open},
		{"Another domain has a server of its own; both put their records into DNS", settle},
		{"Alice writes to Dora there; her server asks that one for the key, and delivers the letter", sendFar},
		{"Ordinary SMTP mail goes through the same port to the mail server behind, untouched", smtpMail},
		{"The daemon is told to stop, and does so in order", (*stage).finish},
	} {
		fmt.Printf("\n%d. %s\n", i+1, act.title)
		if err := act.do(s, behind); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, act.title, err)
		}
	}
	return nil
}

func addUsers(s *stage, _ *sink) error {
	if _, err := s.cmtpd(password+"\n", "user", "add", bob, "--password-stdin"); err != nil {
		return err
	}
	var err error
	if s.code, err = s.cmtpd("", "user", "invite", alice); err != nil {
		return err
	}
	s.show(s.code)
	list, err := s.cmtpd("", "user", "list")
	if err != nil {
		return err
	}
	s.show(list)
	return s.expect(list, bob)
}

func register(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", s.code, "register", alice, "--code-stdin", "--no-recovery")
	s.show(out)
	return err
}

func start(s *stage, _ *sink) error {
	if err := s.serve(); err != nil {
		return err
	}
	s.say("listening on %s; the mail server behind it is asked first whether it relays for strangers", s.port)
	return nil
}

func recoverKeys(s *stage, _ *sink) error {
	out, err := s.shorebird("bob", password+"\n", "recover", bob, "--password-stdin")
	s.show(out)
	return err
}

func lookUp(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", "", "keys", bob)
	s.show(out)
	return err
}

func send(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", text, "send", bob, "--from", alice, "-s", subject, "-a", s.file)
	s.show(out)
	return err
}

// inspect looks at the spool as an administrator, and then as a thief of the
// disk who searches it for the letter.
func inspect(s *stage, _ *sink) error {
	list, err := s.cmtpd("", "spool", "list")
	if err != nil {
		return err
	}
	s.show(list)
	if err := s.expect(list, bob); err != nil {
		return err
	}
	verdict, err := s.cmtpd("", "spool", "verify")
	if err != nil {
		return err
	}
	s.show(verdict)
	attachment, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	found, err := s.search([]byte(subject), []byte("Nobody between us"), attachment[:64])
	if err != nil {
		return err
	}
	if found != "" {
		return fmt.Errorf("plaintext lies in %s", found)
	}
	s.say("searched every file under data_dir for the subject, the text and the file's first bytes: none is there")
	return nil
}

func open(s *stage, _ *sink) error {
	list, err := s.cmtpd("", "spool", "list", "--json")
	if err != nil {
		return err
	}
	id, err := firstID(list)
	if err != nil {
		return err
	}
	message := filepath.Join(s.dir, "message.cmtp")
	if _, err := s.cmtpd("", "spool", "export", id, "--output", message); err != nil {
		return err
	}
	saved := filepath.Join(s.dir, "saved")
	out, err := s.shorebird("bob", password+"\n", "open", message, "--save", saved, "--password-stdin")
	if err != nil {
		return err
	}
	s.show(out)
	if err := s.expect(out, subject, "Nobody between us"); err != nil {
		return err
	}
	want, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(saved, filepath.Base(s.file)))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("the saved file is not the one that was sent")
	}
	s.say("the saved file is equal to the sent one, %d bytes", len(got))
	return nil
}

// settle starts the server of the other domain.
func settle(s *stage, _ *sink) error {
	if _, err := s.far.cmtpd(password+"\n", "user", "add", dora, "--password-stdin"); err != nil {
		return err
	}
	if err := s.far.serve(); err != nil {
		return err
	}
	return errors.Join(s.names.publish(s), s.names.publish(s.far))
}

// sendFar sends a letter across, and waits until it has arrived.
func sendFar(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", text, "send", dora, "--from", alice, "-s", subject)
	s.show(out)
	if err != nil {
		return err
	}
	for {
		list, err := s.far.cmtpd("", "spool", "list")
		if err != nil {
			return err
		}
		if strings.Contains(list, dora) {
			s.show(list)
			return s.expect(list, alice)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

func smtpMail(s *stage, k *sink) error {
	if err := sendSMTP(s.port, "carol@elsewhere.example", "postmaster@"+domain); err != nil {
		return err
	}
	got := k.last()
	if !strings.Contains(got.data, smtpText) {
		return fmt.Errorf("the mail server behind received %q", got.data)
	}
	s.say("it arrived there from %s for %s; the mail server saw the client as %s", got.from, got.to, got.client)
	if err := sendSMTP(s.port, "carol@elsewhere.example", "someone@far-away.example"); err == nil {
		return errors.New("a stranger's mail for elsewhere was accepted")
	}
	s.say("a stranger who tries to send on to another domain is refused")
	return nil
}
