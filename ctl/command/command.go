// Package command is the command line of msbctl: a file for each command, which asks other
// packages and prints what they answer. The library is the one that ctr has.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/version"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"
)

// Exit codes. Those of check are also a judgement: something is missing, or might be better.
const (
	exitFailed  = 1
	exitWarning = 1
	exitMissing = 2
	exitUsage   = 64 // EX_USAGE (sysexits.h)
)

// told is an exit code whose reason has been printed.
type told int

func (t told) Error() string { return fmt.Sprintf("exit code %d", int(t)) }

// usageError is a command line that is wrong.
type usageError struct{ error }

const description = `msbctl is for those who run the containerd runtime io.containerd.msb.v2, on the host where
the containers are. Most of it needs root.

Every command that answers something has --json.

Exit codes: 0 all is well; 1 an error, of check a warning, of spare drain one that has not ended, or of
spare fill one that could not be made; 2 of check something missing; 64 a command line that is wrong.`

// Main runs the program's command line, and returns its exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &output{Writer: stdout}
	err := Root(out, stderr).Run(ctx, args)
	// Who no longer reads wants no more. To others nothing is lost in silence.
	if failed := out.failed(); failed != nil && !errors.Is(err, failed) && !errors.Is(failed, unix.EPIPE) {
		err = errors.Join(failed, err)
		if errors.As(err, new(told)) {
			fmt.Fprintln(stderr, "msbctl:", failed)
		}
	}
	var code told
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(stderr, "msbctl:", visibleLines(err.Error())) // it may have words of a guest
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// Root is the program: its commands and their flags, which print to stdout and stderr.
func Root(stdout, stderr io.Writer) *cli.Command {
	return group(&cli.Command{
		Name: "msbctl", Usage: "look after msb: containers in microVMs, for containerd", Description: description,
		// The linker sets it there, for the shim, too.
		Version: version.Version,
		Writer:  stdout, ErrWriter: stderr,
		HideHelpCommand: true, EnableShellCompletion: true, ConfigureShellCompletionCommand: showCompletion,
		ExitErrHandler: func(context.Context, *cli.Command, error) {}, // Main does it
		Commands: []*cli.Command{
			checkCommand(), benchCommand(), lsCommand(), inspectCommand(), logCommand(), consoleCommand(), shellCommand(), spareCommand(),
			collectCommand(), eventsCommand(), metricsCommand(), configCommand(),
		},
	})
}

// showCompletion lists the library's command that prints a shell's completions.
func showCompletion(command *cli.Command) {
	command.Hidden, command.Usage = false, "print what makes a shell complete command lines: bash, fish, pwsh or zsh"
	group(command)
}

// group is a command that has others and does nothing by itself. So are those below it; the
// others' flags are checked.
func group(command *cli.Command) *cli.Command {
	wrong := func(_ context.Context, _ *cli.Command, err error, _ bool) error { return usageError{err} }
	command.OnUsageError = wrong
	for _, below := range command.Commands {
		below.OnUsageError = wrong
	}
	command.Action = func(_ context.Context, c *cli.Command) error {
		name := c.Args().First()
		if name == "" {
			return cli.ShowSubcommandHelp(c)
		}
		meant := ""
		if near := cli.SuggestCommand(c.Commands, name); near != "" {
			meant = fmt.Sprintf(", did you mean %s?", near)
		}
		return usageError{fmt.Errorf("there is no command %s %s%s", c.FullName(), name, meant)}
	}
	return command
}

// arguments are those of a command that takes some number of them.
func arguments(c *cli.Command, least, most int) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < least || len(args) > most {
		return nil, usageError{fmt.Errorf("%s is given %d arguments: it is %s", c.FullName(), len(args), strings.TrimSpace(c.FullName()+" "+c.ArgsUsage))}
	}
	return slices.Clone(args), nil
}
