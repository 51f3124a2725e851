package shorebird

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/terminal"
)

// A shell is offered what is known on this machine without a question: no server is called, and nobody is asked for a
// password. What lies in the encrypted copy of the mailbox is offered where the desktop keyring or the kernel has the keys.

type completion = func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// offer gives a command, and all below it, what its arguments and flags can be.
func (r *run) offer(c *cobra.Command) {
	for name, words := range map[string]func() []string{"account": r.ownAddresses, "from": r.ownAddresses, "cc": r.contactAddresses, "reply-to": r.contactAddresses} {
		if c.LocalNonPersistentFlags().Lookup(name) != nil {
			// The one error is of a flag that is not there.
			_ = c.RegisterFlagCompletionFunc(name, offered(words, 0, -1))
		}
	}
	if f := r.arguments(c.CommandPath()); f != nil {
		c.ValidArgsFunction = f
	}
	for _, child := range c.Commands() {
		r.offer(child)
	}
}

// arguments returns what a command's arguments can be; nil where that is anything, or a file.
func (r *run) arguments(command string) completion {
	const many = -1
	switch strings.TrimPrefix(command, "shorebird ") {
	case "send":
		return offered(r.contactAddresses, 0, many)
	case "keys", "trust show", "trust accept":
		return offered(r.contactAddresses, 0, 1)
	case "passwd", "rotate", "recover", "devices", "unlock", "lock":
		return offered(r.ownAddresses, 0, 1)
	case "read", "reply":
		return r.kept(numbersOf, 0, 1)
	case "save":
		return r.kept(numbersOf, 0, 1)
	case "delete", "flag":
		return r.kept(numbersOf, 0, many)
	case "forward":
		numbers, addresses := r.kept(numbersOf, 0, 1), offered(r.contactAddresses, 1, many)
		return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return numbers(c, args, word)
			}
			return addresses(c, args, word)
		}
	case "drafts edit", "drafts send":
		return r.kept(draftsOf, 0, 1)
	case "drafts delete":
		return r.kept(draftsOf, 0, many)
	case "outbox send":
		return r.kept(lettersOf, 0, 1)
	case "outbox drop":
		return r.kept(lettersOf, 0, many)
	}
	return nil
}

// offered offers words for the arguments from one place up to before another, or all behind it where that is -1; each word once, and
// none that a shell may take for more than a word. A word may have a tab and a description behind it.
func offered(words func() []string, from, to int) completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var all []string
		if len(args) >= from && (to < 0 || len(args) < to) {
			all = slices.DeleteFunc(words(), func(w string) bool {
				w, _, _ = strings.Cut(w, "\t")
				return slices.Contains(args, w) || !isMereWord(w)
			})
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// kept is offered for words from the copy of the mailbox, where it can be opened.
func (r *run) kept(words func(context.Context, *cache.Cache) []string, from, to int) completion {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		return offered(func() []string {
			box := r.openedBox(c)
			if box == nil {
				return nil
			}
			defer box.Close()
			return words(c.Context(), box)
		}, from, to)(c, args, word)
	}
}

// openedBox opens the copy of the mailbox of the account that a command line names, or of the configuration's, with keys from
// the desktop keyring or the kernel; nil where that takes a question.
func (r *run) openedBox(c *cobra.Command) *cache.Cache {
	h, s, err := r.home()
	if err != nil {
		return nil
	}
	addr := s.Account
	if f := c.Flag("account"); f != nil {
		if a, err := address.Parse(f.Value.String()); err == nil {
			addr = a
		}
	}
	addr.Account = addr.Account.Base()
	ring, _ := r.entry(c.Context(), addr)
	if ring == nil {
		ring, _, _ = r.unlocked(h, addr)
	}
	if ring == nil {
		return nil
	}
	defer ring.Wipe()
	box, err := cache.Open(c.Context(), h.mailbox(addr), keys(ring), cache.Options{Leave: true})
	if err != nil {
		return nil
	}
	return box
}

// described is a number with what it stands for.
func described(n int64, text string) string { return fmt.Sprintf("%d\t%s", n, terminal.Clip(text, 50)) }

func numbersOf(ctx context.Context, box *cache.Cache) (words []string) {
	all, err := box.List(ctx, cache.Filter{Way: cache.Came})
	if err != nil {
		return nil
	}
	short, err := box.Short(ctx, idsOf(all))
	if err != nil {
		return nil
	}
	for i := range all {
		words = append(words, described(short[all[i].ID], subjectOf(&all[i])))
	}
	return words
}

func draftsOf(ctx context.Context, box *cache.Cache) (words []string) {
	all, err := box.Drafts(ctx)
	if err != nil {
		return nil
	}
	for _, d := range all {
		words = append(words, described(d.ID, d.Subject))
	}
	return words
}

func lettersOf(ctx context.Context, box *cache.Cache) (words []string) {
	all, err := box.Outbox(ctx)
	if err != nil {
		return nil
	}
	for _, l := range all {
		words = append(words, described(l.ID, l.Draft.Subject))
	}
	return words
}

// contactAddresses are those whose keys are remembered, with how far to trust these.
func (r *run) contactAddresses() (words []string) {
	h, err := newHome(r.Getenv)
	if err != nil {
		return nil
	}
	met, servers, err := h.remembers(r.Now)
	if err != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		if a, err := address.Parse(name); err == nil && !h.hasKeys(a) {
			words = append(words, terminal.OneLine(name)+"\t"+string(newTrustReport(name, met[name], servers).Trust))
		}
	}
	return words
}

// ownAddresses are the user's accounts.
func (r *run) ownAddresses() []string {
	h, s, err := r.home()
	if err != nil {
		return nil
	}
	names, err := h.accountNames(s)
	if err != nil {
		return nil
	}
	return names
}
