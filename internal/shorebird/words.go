package shorebird

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"cmtpd/internal/crypt"
	"cmtpd/internal/recovery"
)

// maxConfirmations is how often a person may mistype a word that was shown, or a new password, before
// the command gives up.
const maxConfirmations = 3

// recoveryKey makes a recovery key and shows its words, once: at the terminal, where the
// person then has to repeat two of them, or else for the report. Nothing depends on the
// words yet when it fails.
func (r *run) recoveryKey(ctx context.Context) (key *crypt.PrivateKey, words string, err error) {
	secret, err := recovery.New()
	if err != nil {
		return nil, "", err
	}
	defer secret.Wipe()
	if key, err = secret.Key(); err != nil {
		return nil, "", fmt.Errorf("making a recovery key: %w", err)
	}
	words = secret.Words()
	if r.json {
		return key, words, nil
	}
	r.showWords(words)
	if err := r.confirm(ctx, words); err != nil {
		key.Wipe()
		return nil, "", err
	}
	return key, "", nil
}

func (r *run) showWords(words string) {
	fmt.Fprintln(r.Err, "\nThis is your recovery key. With these 12 words you get back at your mail when\n"+
		"the password is forgotten, and so does everybody else who has them. Write them\non paper: they are not shown again.")
	for i, w := range strings.Fields(words) {
		if i%4 == 0 {
			fmt.Fprint(r.Err, "\n   ")
		}
		fmt.Fprintf(r.Err, " %2d %-9s", i+1, w)
	}
	fmt.Fprint(r.Err, "\n\n")
}

// confirm asks for two of the words, where there is somebody at the terminal.
func (r *run) confirm(ctx context.Context, words string) error {
	if r.ReadLine == nil || !r.ErrIsTerminal {
		return nil
	}
	list := strings.Fields(words)
	first, second, err := twoOf(len(list))
	if err != nil {
		return err
	}
	for _, i := range []int{first, second} {
		if err := r.repeat(ctx, i, list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) repeat(ctx context.Context, i int, word string) error {
	for range maxConfirmations {
		typed, err := r.ReadLine(ctx, fmt.Sprintf("Word %d: ", i+1))
		if err != nil {
			return fmt.Errorf("reading a word: %w", err)
		}
		if strings.EqualFold(strings.TrimSpace(string(typed)), word) {
			return nil
		}
		r.note("That is another word.")
	}
	return hint(errors.New("the recovery key was not confirmed"), "Nothing was changed, and those words are worth nothing. Try again, or with --no-recovery.")
}

// twoOf draws two different numbers below n, in ascending order.
func twoOf(n int) (int, int, error) {
	a, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0, 0, fmt.Errorf("drawing a number: %w", err)
	}
	b, err := rand.Int(rand.Reader, big.NewInt(int64(n-1)))
	if err != nil {
		return 0, 0, fmt.Errorf("drawing a number: %w", err)
	}
	first, second := int(a.Int64()), int(b.Int64())
	if second >= first {
		return first, second + 1, nil
	}
	return second, first, nil
}

// typedWords returns the recovery key whose words a person has.
func (r *run) typedWords(ctx context.Context, stdin bool) (*crypt.PrivateKey, error) {
	text, err := r.answer(ctx, question{
		what: "the words", prompt: "The 12 words of your recovery key: ", stdin: stdin, flag: "words-stdin", variable: wordsFileVariable,
	})
	if err != nil {
		return nil, err
	}
	secret, err := recovery.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading the words: %w", err)
	}
	defer secret.Wipe()
	return secret.Key()
}
