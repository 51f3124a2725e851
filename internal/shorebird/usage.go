package shorebird

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cmtpd/internal/nearest"
)

// A wrong call is told in one line, which names what is wrong and how it is right.

// speakPlainly gives a command, and all below it, errors of its own for wrong calls.
func speakPlainly(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	c.SetFlagErrorFunc(wrongFlag)
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) == nil {
				return nil
			}
			return wrongArguments(c, args)
		}
	}
	for _, child := range c.Commands() {
		speakPlainly(child)
	}
}

// wrongArguments says of which there are too few, or too many, by the words of the command's use: those in brackets may
// be left out.
func wrongArguments(c *cobra.Command, args []string) error {
	use := strings.TrimSuffix(c.UseLine(), " [flags]")
	words := strings.Fields(c.Use)[1:]
	needed := 0
	for _, w := range words {
		if !strings.HasPrefix(w, "[") {
			needed++
		}
	}
	if len(args) < needed {
		return fmt.Errorf("the argument %s is missing: %s", strings.TrimSuffix(words[len(args)], "..."), use)
	}
	return fmt.Errorf("the argument %q is one too many: %s", args[min(len(words), len(args)-1)], use)
}

func unknownCommand(c *cobra.Command, word string) error {
	meant := ""
	if all := c.SuggestionsFor(word); len(all) > 0 {
		meant = fmt.Sprintf("; did you mean %s %s?", c.CommandPath(), all[0])
	}
	return fmt.Errorf("%s has no command %q%s", c.CommandPath(), word, meant)
}

func wrongFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var empty *pflag.ValueRequiredError
	var value *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(c, unknown)
	case errors.As(err, &empty):
		what, _ := pflag.UnquoteUsage(empty.GetFlag())
		return fmt.Errorf("--%[1]s needs a value behind it: --%[1]s %[2]s", empty.GetFlag().Name, what)
	case errors.As(err, &value):
		f := value.GetFlag()
		what := map[string]string{
			"int": "is no whole number", "duration": "is no time such as 30s, 2m or 1h", "bool": "is neither true nor false",
		}[f.Value.Type()]
		if what == "" {
			what = "cannot be: " + value.Unwrap().Error()
		}
		return fmt.Errorf("--%s: %q %s", f.Name, value.GetValue(), what)
	case errors.As(err, &syntax):
		return fmt.Errorf("%q is no flag", syntax.GetSpecifiedFlag())
	}
	return err
}

func unknownFlag(c *cobra.Command, err *pflag.NotExistError) error {
	if short := err.GetSpecifiedShortnames(); short != "" {
		return fmt.Errorf("%s has no flag -%s", c.CommandPath(), err.GetSpecifiedName())
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	meant := nearest.Word(err.GetSpecifiedName(), names)
	if meant != "" {
		meant = fmt.Sprintf("; did you mean --%s?", meant)
	}
	return fmt.Errorf("%s has no flag --%s%s", c.CommandPath(), err.GetSpecifiedName(), meant)
}

// apart says which flags do not go together; any other error it leaves as it is.
func apart(err error) error {
	_, set, ok := strings.Cut(err.Error(), "] are set none of the others can be; [")
	if !ok {
		return err
	}
	names := strings.Fields(strings.TrimSuffix(set, "] were all set"))
	return fmt.Errorf("--%s do not go together", strings.Join(names, " and --"))
}
