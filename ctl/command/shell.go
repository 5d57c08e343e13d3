package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/signal"
	"path/filepath"
	"unicode/utf8"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// fifoDir is where FIFOs are made. Of root's directories below /run containerd has no other.
const fifoDir = "/run/msb"

func shellCommand() *cli.Command {
	return &cli.Command{
		Name: "shell", Usage: "run a program in a guest, outside of its containers", ArgsUsage: "ID --tools DIRECTORY -- COMMAND [ARGUMENT ...]",
		Description: `For debugging, if the configuration allows it: [debug] shell = true, when the container was made. The guest
is given DIRECTORY read-only, as long as the program runs; COMMAND is a file in it, linked statically,
such as busybox: msbctl shell ID --tools DIR -- busybox sh. It runs as the guest's root, beside the
agent, with $PATH and $TOOLS naming the directory. The shim logs who ran what.

It has a terminal if standard input and output are one, with what is needed to edit lines and to fill
the screen: the guest is not trusted with more, such as the title, the clipboard or the mouse. ^C and
all other keys are the program's; ^] three times ends it. Without a terminal, what is printed on one is
shown with escape sequences for what that would act upon.

Exit codes: the program's; 1 it could not be run, too; 64 a command line that is wrong.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tools", Usage: "the `DIRECTORY` of this host that has the program", Required: true},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "with a terminal, though standard input or output is none"},
			&cli.BoolFlag{Name: "no-tty", Aliases: []string{"T"}, Usage: "without a terminal"},
			stateFlag(), namespaceFlag(),
		},
		Action: shellAction,
	}
}

func shellAction(ctx context.Context, c *cli.Command) error {
	args, err := arguments(c, 2, math.MaxInt)
	if err != nil {
		return err
	}
	tools, err := filepath.Abs(c.String("tools"))
	if err != nil {
		return err
	}
	hasTerminal, err := wantsTerminal(c)
	if err != nil {
		return err
	}
	host, all, err := find(ctx, c)
	if err != nil {
		return err
	}
	s, err := survey.Pick(all, c.String("namespace"), args[0])
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGPIPE) // who no longer reads has the program end, and its FIFOs go
	p := survey.Program{Tools: tools, Args: args[1:], Stdin: c.Root().Reader, Stdout: c.Root().Writer, Stderr: c.Root().ErrWriter}
	if hasTerminal && terminalOf(p.Stdin) != nil {
		fmt.Fprintln(c.Root().ErrWriter, "msbctl: ^] three times ends the program")
	}
	return exitOf(ctx, host, s, fifoDir, p, hasTerminal)
}

// wantsTerminal tells whether the program has a terminal: if the flags say so, or if both of its
// streams are one.
func wantsTerminal(c *cli.Command) (bool, error) {
	if c.Bool("tty") && c.Bool("no-tty") {
		return false, usageError{errors.New("--tty and --no-tty are both given")}
	}
	return c.Bool("tty") || !c.Bool("no-tty") && terminalOf(c.Root().Reader) != nil && terminalOf(c.Root().Writer) != nil, nil
}

// exitOf runs a program, and is nil if it ends well.
func exitOf(ctx context.Context, host survey.Host, s survey.Sandbox, dir string, p survey.Program, hasTerminal bool) error {
	status, err := runProgram(ctx, host, s, dir, p, hasTerminal)
	if err == nil && status != 0 {
		return told(status)
	}
	if errors.Is(err, unix.EPIPE) {
		return told(128 + uint32(unix.SIGPIPE)) // as of a program that the signal has ended
	}
	if err != nil && ctx.Err() != nil {
		return errors.New("ended by a signal, and the program with it")
	}
	return err
}

// runProgram runs a program, with the operator's terminal lent to it or with streams.
func runProgram(ctx context.Context, host survey.Host, s survey.Sandbox, dir string, p survey.Program, hasTerminal bool) (uint32, error) {
	if !hasTerminal {
		p.Stdout, p.Stderr = forTerminal(p.Stdout), forTerminal(p.Stderr)
		return host.Run(ctx, s, dir, p)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, err := lend(p.Stdin, p.Stdout, cancel)
	if err != nil {
		return 0, err
	}
	defer t.restore()
	p.Stdin, p.Stdout, p.Terminal = t.keyboard(p.Stdin), t, t.program()
	return host.Run(ctx, s, dir, p)
}

// forTerminal shows a terminal nothing that it would act upon, but lines and tabs. To others all
// goes as it is.
func forTerminal(w io.Writer) io.Writer {
	if !isTerminal(w) {
		return w
	}
	return &escaper{out: w}
}

// An escaper writes what is printable, lines and tabs, and the rest as escape sequences.
type escaper struct {
	out  io.Writer
	rest []byte // the beginning of a character
}

func (e *escaper) Write(p []byte) (int, error) {
	text := append(e.rest, p...)
	end := len(text)
	// A character that is not whole waits for the next write.
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				end = len(text) - n
			}
			break
		}
	}
	e.rest = append([]byte(nil), text[end:]...)
	if _, err := io.WriteString(e.out, visibleLines(string(text[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}
