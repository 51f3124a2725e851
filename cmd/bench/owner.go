package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

// An owner is alice with a large mailbox, and a copy of all of it.
type owner struct {
	*site
	daemon *exec.Cmd
	key    *crypt.PrivateKey
	other  *counted // another device of hers
	copy   *cache.Cache
	rate   float64  // letters a second into the copy, when it was made
	opened series   // ms that new letters took until they were opened
	words  []string // of letters, the commonest first
}

// owner fills a mailbox, and makes a copy.
func (l *lab) owner() (o *owner, err error) {
	s, err := l.site(1024, "")
	if err != nil {
		return nil, err
	}
	o = &owner{site: s, words: vocabulary()}
	if o.daemon, err = s.serve(); err != nil {
		return nil, err
	}
	if o.key, err = s.aliceKey(); err != nil {
		return nil, err
	}
	if err := o.post(l.mail); err != nil {
		return nil, err
	}
	if o.other, err = s.signIn(o.key); err != nil {
		return nil, err
	}
	if o.copy, err = o.openCopy(filepath.Join(filepath.Dir(s.conf), "copy")); err != nil {
		return nil, err
	}
	d, err := s.signIn(o.key)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	start := time.Now()
	r, err := o.syncer(o.copy).Run(l.ctx, d)
	if err == nil && r.Fetched != l.mail {
		err = fmt.Errorf("%d letters of %d were opened", r.Fetched, l.mail)
	}
	o.rate = float64(l.mail) / time.Since(start).Seconds()
	return o, err
}

func (o *owner) close() error {
	err := errors.Join(o.copy.Close(), o.other.Close(), end(o.daemon, os.Kill))
	return errors.Join(err, os.RemoveAll(filepath.Dir(o.conf)))
}

func (o *owner) openCopy(dir string) (*cache.Cache, error) {
	return cache.Open(o.ctx, dir, []*crypt.PrivateKey{o.key}, cache.Options{})
}

// syncer opens letters as shorebird does, but for what it asks others of their writers.
func (o *owner) syncer(c *cache.Cache) *cache.Syncer {
	return &cache.Syncer{
		Cache: c,
		Open: func(_ context.Context, _ *cache.Message, sealed []byte, _ int) (*cache.Opened, error) {
			l, err := letter.Open(bytes.NewReader(sealed), int64(len(sealed)), []*crypt.PrivateKey{o.key})
			if err != nil {
				return nil, err
			}
			return &cache.Opened{Written: l.Time, Subject: l.Subject, Writer: letter.Claim(l.Header), Text: string(l.Text)}, nil
		},
		OpenWords: func(_ cache.Digest, sealed []byte) ([]string, bool) { return nil, len(sealed) == 0 },
		SealWords: func(cache.Digest, []string) ([]byte, error) { return nil, errors.New("nobody changes keywords here") },
	}
}

// posts is how many write letters at once.
const posts = 2

// post has strangers write letters to alice.
func (o *owner) post(n int) error {
	to, err := o.alice()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var errs [posts]error
	for i := range errs {
		wg.Go(func() { errs[i] = o.send(o.letters(to, (n+i)/posts)) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// send sends messages, all of which have to be taken.
func (s *site) send(messages iter.Seq[client.Outgoing]) error {
	_, c, err := new(client.Dialer).Open(s.ctx, s.addr, true)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Accept()
	fates, err := c.SendAll(messages)
	for _, f := range fates {
		err = errors.Join(err, f.Err)
	}
	return err
}

// letters are of strangers, about 2 KiB each.
func (o *owner) letters(to address.Address, n int) iter.Seq[client.Outgoing] {
	r := rand.New(rand.NewPCG(o.serial(), 0))
	which := rand.NewZipf(r, 1.1, 8, uint64(len(o.words)-1))
	text := func(words int) string {
		var b strings.Builder
		for i := range words {
			b.WriteString(o.words[which.Uint64()])
			b.WriteByte(" \n"[i%12/11])
		}
		return b.String()
	}
	return func(yield func(client.Outgoing) bool) {
		for range n {
			from, err := address.Parse(fmt.Sprintf("user%d@elsewhere.example", r.IntN(500)))
			if err != nil {
				panic(err)
			}
			d := letter.Draft{Time: time.Now(), Subject: strings.TrimSpace(text(6)), Text: []byte(text(250))}
			m, err := d.Seal(from, to, o.key.Public())
			if err != nil {
				panic(err)
			}
			if !yield(client.Outgoing{Header: m.Header, Body: m.Body}) {
				return
			}
		}
	}
}

// vocabulary returns 20,000 words of two to five syllables.
func vocabulary() []string {
	r := rand.New(rand.NewPCG(1, 2))
	known, words := make(map[string]bool), make([]string, 0, 20_000)
	for len(words) < cap(words) {
		var b []byte
		for range 2 + r.IntN(4) {
			b = append(b, "bdfghklmnprstvwz"[r.IntN(16)], "aeiou"[r.IntN(5)])
		}
		if w := string(b); !known[w] {
			known[w], words = true, append(words, w)
		}
	}
	return words
}

// A query is asked of the copy.
type query struct{ kind, text string }

// queries are for what is in nearly all letters, in few, and in none.
func (o *owner) queries() []query {
	w := o.words
	return []query{
		{"a word of nearly all", w[0]},
		{"three words of most", w[0] + " " + w[1] + " " + w[2]},
		{"a rare word", w[15000]},
		{"a common word and a rare one", w[0] + " " + w[15000]},
		{"two common words together", `"` + w[0] + " " + w[1] + `"`},
		{"two others together", `"` + w[40] + " " + w[50] + `"`},
		{"two letters", w[0][:2] + "*"},
		{"three beginnings", w[0][:2] + "* " + w[1][:2] + "* " + w[2][:3] + "*"},
		{"a writer", "from:user7"},
		{"a writer and a word", "from:user7 " + w[0]},
		{"a word without a commoner one", w[1] + " -" + w[0]},
		{"all without a word of nearly all", "-" + w[0]},
		{"a subject", "subject:" + w[3]},
		{"a word, unseen", "is:unseen " + w[20]},
		{"attachments, which none has", "has:attachment"},
		{"a word of none", "nowhere"},
	}
}
