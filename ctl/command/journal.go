package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
)

// readUsage is what log and console have in common.
const readUsage = `ID is that of a container or of a pod's sandbox, or the beginning of one. The shim keeps the last 64 KiB
in its memory, and they go with it; all of it is in containerd's log. What a terminal would act upon is
shown as an escape sequence. Lines that were lost are counted on standard error.

Exit codes: 0 all was read, or with -f the shim has ended or a signal came; 1 the shim is not there or hangs.`

func logCommand() *cli.Command {
	return &cli.Command{
		Name: "log", Usage: "print the last lines of a sandbox's shim's log", ArgsUsage: "ID",
		Description: "The lines are as in containerd's log, without the console's. With --json each is an object.\n\n" + readUsage,
		Flags:       readFlags(), Action: readAction(api.Source_LOG, printLog, logJSON),
	}
}

func consoleCommand() *cli.Command {
	return &cli.Command{
		Name: "console", Usage: "print the last lines of a guest's console", ArgsUsage: "ID",
		Description: `These are the lines of the guest's kernel and of the VMM, with the time at which they came: 512 bytes of
each, 200 at once and then 20 a second. The guest may print what it likes. With --json each is an object.

` + readUsage,
		Flags: readFlags(), Action: readAction(api.Source_CONSOLE, printConsole, consoleJSON),
	}
}

func readFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with the lines that come"},
		stateFlag(), namespaceFlag(), jsonFlag(),
	}
}

// readAction prints lines of a source, each in one of two forms.
func readAction(source api.Source, text func(survey.Line) string, object func(survey.Line) any) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		args, err := arguments(c, 1, 1)
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
		// ttrpc's client logs what comes after its end.
		log.L.Logger.SetOutput(io.Discard)
		p := linePrinter{out: c.Root().Writer, errs: c.Root().ErrWriter, text: text}
		if c.Bool("json") {
			p.object = object
		}
		ended, err := host.Read(ctx, s, source, c.Bool("follow"), p.print)
		if ended {
			fmt.Fprintln(p.errs, "msbctl:", s.ErrLost())
		}
		return err
	}
}

// A linePrinter prints lines that may be a guest's.
type linePrinter struct {
	out, errs io.Writer
	text      func(survey.Line) string
	object    func(survey.Line) any // nil: text

	begun bool
}

func (p *linePrinter) print(b survey.Batch) error {
	switch {
	case b.Lost == 0:
	case p.object != nil:
		if err := printObject(p.out, map[string]uint64{"lost": b.Lost}); err != nil {
			return err
		}
	case p.begun:
		fmt.Fprintf(p.errs, "msbctl: %d lines are lost: they came faster than they were read\n", b.Lost)
	default:
		fmt.Fprintf(p.errs, "msbctl: %d lines from before are kept no longer\n", b.Lost)
	}
	p.begun = true
	for _, line := range b.Lines {
		var err error
		if p.object != nil {
			err = printObject(p.out, p.object(line))
		} else {
			_, err = fmt.Fprintln(p.out, visible(p.text(line)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printLog(line survey.Line) string { return line.Text }

func printConsole(line survey.Line) string {
	return line.Time.Local().Format("2006-01-02T15:04:05.000") + " " + line.Text
}

func consoleJSON(line survey.Line) any {
	return struct {
		Time time.Time `json:"time"`
		Text string    `json:"text"`
	}{line.Time, line.Text}
}

// A logLine is a line of the log, in its parts.
type logLine struct {
	Time    time.Time         `json:"time"`
	Level   string            `json:"level,omitempty"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

func logJSON(line survey.Line) any {
	fields, ok := fieldsOf(line.Text)
	if !ok {
		return logLine{Time: line.Time, Message: line.Text}
	}
	l := logLine{Time: line.Time, Level: fields["level"], Message: fields["msg"], Fields: fields}
	for _, name := range []string{"time", "level", "msg"} {
		delete(fields, name)
	}
	return l
}

// fieldsOf are the fields of a line as the shim's log has them: name=value, of which the value is
// quoted as Go does it where it has to be.
func fieldsOf(line string) (fields map[string]string, ok bool) {
	fields = make(map[string]string)
	for line != "" {
		name, rest, found := strings.Cut(line, "=")
		if !found || strings.ContainsAny(name, ` "`) {
			return nil, false
		}
		value, err := strconv.QuotedPrefix(rest)
		if err != nil {
			value, _, _ = strings.Cut(rest, " ")
			fields[name] = value
		} else if fields[name], err = strconv.Unquote(value); err != nil {
			return nil, false
		}
		rest = rest[len(value):]
		if rest != "" && rest[0] != ' ' {
			return nil, false
		}
		line = strings.TrimPrefix(rest, " ")
	}
	return fields, true
}
