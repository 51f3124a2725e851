// Command demo shows the whole of cmtpd on one machine, with nothing installed
// and nothing left behind: two domains whose servers find each other in DNS, two
// people who are invited, a letter with a real file that crosses, what lies on disk
// of it, an answer from another machine, a forgotten password, and ordinary mail
// through the same port.
//
// It runs the programs in bin/ as a person would. Every step checks what it says.
package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	domain      = "demo.example"
	alice       = "alice@" + domain
	farDomain   = "far.example"
	dora        = "dora@" + farDomain
	password    = "correct horse battery staple"
	newPassword = "this one is written down"
	subject     = "The licence that you asked for"
	text        = "Hello Dora,\n\nyou find it attached. Nobody between us can read this.\n\nAlice\n"
	answer      = "Thank you, Alice! It opens here, too.\n"
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
		{"Two servers of two domains start; one has an ordinary mail server behind the same port", start},
		{"Both put their records into DNS, and know nothing else of each other", publish},
		{"Each administrator invites a person", invite},
		{"They register: the keys are made on their machines, and no server sees a password", register},
		{"Alice looks up Dora's key: her server asks the other one", lookUp},
		{"Alice sends Dora a letter with a file, sealed to that key, and it crosses", send},
		{"On the server's disk there is only ciphertext, and it is signed", inspect},
		{"Dora reads the letter, and saves the file", read},
		{"Dora takes her keys to another machine with her password, and answers from there", reply},
		{"Alice reads the answer, and sees that Dora's key has submitted it", readAnswer},
		{"Dora has forgotten her password: twelve words on paper are enough", recoverKeys},
		{"Ordinary SMTP mail goes through the same port to the mail server behind, untouched", smtpMail},
		{"The daemons are told to stop, and do so in order", finish},
	} {
		fmt.Printf("\n%d. %s\n", i+1, act.title)
		if err := act.do(s, behind); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, act.title, err)
		}
	}
	return nil
}

func start(s *stage, _ *sink) error {
	if err := errors.Join(s.serve(), s.far.serve()); err != nil {
		return err
	}
	s.say("%s is served on %s, %s on %s", domain, s.port, farDomain, s.far.port)
	s.say("the mail server behind the first was asked whether it relays for strangers")
	return nil
}

func publish(s *stage, _ *sink) error {
	return errors.Join(s.names.publish(s), s.names.publish(s.far))
}

func invite(s *stage, _ *sink) (err error) {
	for at, who := range map[*stage]string{s: alice, s.far: dora} {
		if at.code, err = at.cmtpd("", "user", "invite", who); err != nil {
			return err
		}
		s.show(at.code)
	}
	return nil
}

func register(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", s.code, "register", alice, "--code-stdin", "--no-recovery")
	s.show(out)
	if err != nil {
		return err
	}
	if out, err = s.far.shorebird("dora", s.far.code, "register", dora, "--code-stdin", "--json"); err != nil {
		return err
	}
	var report struct {
		Words string `json:"recovery_words"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return fmt.Errorf("reading the report of register: %w", err)
	}
	if len(strings.Fields(report.Words)) != 12 {
		return errors.New("there are no 12 words in the report")
	}
	s.words = report.Words
	s.say("dora writes 12 words on paper")
	return nil
}

func lookUp(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", "", "keys", dora)
	s.show(out)
	return err
}

// send sends a letter across, and waits until it has arrived.
func send(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", text, "send", dora, "-s", subject, "-a", s.file)
	s.show(out)
	if err != nil {
		return err
	}
	return s.far.await(dora)
}

// inspect looks at the spool as an administrator, and then as a thief of the
// disk who searches it for the letter.
func inspect(s *stage, _ *sink) error {
	for _, what := range []string{"list", "verify"} {
		out, err := s.far.cmtpd("", "spool", what)
		if err != nil {
			return err
		}
		s.show(out)
	}
	attachment, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	for _, at := range []*stage{s, s.far} {
		found, err := at.search([]byte(subject), []byte("Nobody between us"), attachment[:64])
		if err != nil {
			return err
		}
		if found != "" {
			return fmt.Errorf("plaintext lies in %s", found)
		}
	}
	s.say("searched every file of both servers for the subject, the text and the file's first bytes: none is there")
	return nil
}

func read(s *stage, _ *sink) error {
	out, err := s.far.shorebird("dora", "", "list")
	if err != nil {
		return err
	}
	s.show(out)
	if out, err = s.far.shorebird("dora", "", "read", "1"); err != nil {
		return err
	}
	s.show(out)
	if err := s.expect(out, subject, "Nobody between us", filepath.Base(s.file)); err != nil {
		return err
	}
	saved := filepath.Join(s.far.dir, "saved")
	if out, err = s.far.shorebird("dora", "", "save", "1", "--to", saved); err != nil {
		return err
	}
	s.show(out)
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

func reply(s *stage, _ *sink) error {
	for _, step := range []struct {
		stdin string
		args  []string
	}{
		{"", []string{"recover", dora}},
		{"", []string{"list"}},
		{answer, []string{"reply", "1"}},
	} {
		out, err := s.far.shorebird("dora-2", step.stdin, step.args...)
		s.show(out)
		if err != nil {
			return err
		}
	}
	return s.await(alice)
}

func readAnswer(s *stage, _ *sink) error {
	out, err := s.shorebird("alice", "", "list")
	s.show(out)
	if err != nil {
		return err
	}
	if out, err = s.shorebird("alice", "", "read", "1"); err != nil {
		return err
	}
	s.show(out)
	return s.expect(out, "Re: "+subject, strings.TrimSpace(answer), "submitted by "+dora+", whose key has signed")
}

// recoverKeys begins on a machine that has nothing, without the password.
func recoverKeys(s *stage, _ *sink) error {
	words := filepath.Join(s.far.dir, "words")
	if err := os.WriteFile(words, []byte(s.words+"\n"), 0o600); err != nil {
		return err
	}
	s.far.password = newPassword
	out, err := s.far.shorebird("dora-3", "", "recover", dora, "--words", "SHOREBIRD_WORDS_FILE="+words)
	s.show(out)
	if err != nil {
		return err
	}
	if out, err = s.far.shorebird("dora-3", "", "search", "licence"); err != nil {
		return err
	}
	s.show(out)
	if err := s.expect(out, subject); err != nil {
		return err
	}
	s.far.password = password
	if _, err = s.far.shorebird("dora-4", "", "recover", dora); err == nil {
		return errors.New("the forgotten password still opens the keys")
	}
	s.say("the forgotten password is of no use any more")
	return nil
}

// finish stops both daemons as systemd would.
func finish(s *stage, _ *sink) error {
	if err := errors.Join(s.stop(), s.far.stop()); err != nil {
		return err
	}
	s.say("they closed their ports, finished their sessions, closed their spools and left with status 0")
	return nil
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
