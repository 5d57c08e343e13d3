package command

import (
	"context"
	"errors"
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
agent, with $PATH and $TOOLS naming the directory. It has no terminal. The shim logs who ran what.

What is printed on a terminal is shown with escape sequences for what that would act upon.

Exit codes: the program's; 1 it could not be run, too; 64 a command line that is wrong.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tools", Usage: "the `DIRECTORY` of this host that has the program", Required: true},
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
	host, all, err := find(ctx, c)
	if err != nil {
		return err
	}
	s, err := survey.Pick(all, c.String("namespace"), args[0])
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGPIPE) // who no longer reads has the program end, and its FIFOs go
	status, err := host.Run(ctx, s, fifoDir, survey.Program{
		Tools: tools, Args: args[1:], Stdin: c.Root().Reader,
		Stdout: forTerminal(c.Root().Writer), Stderr: forTerminal(c.Root().ErrWriter),
	})
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
	shown := escape(string(text[:end]), func(r rune, raw string) string {
		if r == '\n' || r == '\t' {
			return raw
		}
		return visible(raw)
	})
	if _, err := io.WriteString(e.out, shown); err != nil {
		return 0, err
	}
	return len(p), nil
}
