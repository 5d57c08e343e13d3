package command

import (
	"encoding/json"
	"io"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v3"
)

// jsonFlag is of every command that prints something.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// columns are lines whose fields are apart by tabs, as a table. The caller flushes it.
func columns(w io.Writer) *tabwriter.Writer {
	const gap = 2
	return tabwriter.NewWriter(w, 0, 0, gap, ' ', 0)
}

// A colour is the number of one, as terminals have it (console_codes(4)).
type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// A painter gives words a colour, or leaves them as they are.
type painter func(colour, string) string

// painterOf is for what is written to w: on a terminal there is colour, unless somebody does
// not want it (no-color.org).
func painterOf(w io.Writer) painter {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return func(_ colour, text string) string { return text }
	}
	return func(c colour, text string) string { return "\x1b[" + string(c) + "m" + text + "\x1b[0m" }
}

func isTerminal(w io.Writer) bool { return terminalOf(w) != nil }
