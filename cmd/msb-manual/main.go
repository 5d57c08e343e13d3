// msb-manual prints msbctl's manual page, made of the commands and flags that msbctl has.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	docs "github.com/urfave/cli-docs/v3"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/command"
)

const section = 8 // commands of the administrator

func main() {
	page, err := manual()
	if err == nil {
		_, err = fmt.Print(page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "msb-manual:", err)
		os.Exit(1)
	}
}

func manual() (string, error) {
	root := command.Root(io.Discard, io.Discard)
	tellAll(root.Name, root.Commands)
	return docs.ToManWithSection(root, section)
}

// tellAll has the page tell what --help does of each command, and the page of the library does not:
// what its command line is, and its description with the exit codes.
func tellAll(parent string, commands []*cli.Command) {
	for _, c := range commands {
		name := parent + " " + c.Name
		if len(c.Commands) == 0 {
			line := strings.TrimSpace(name + " [options] " + c.ArgsUsage)
			c.Usage = fmt.Sprintf("%s\n\n    %s\n\n%s", c.Usage, line, c.Description) // in Markdown
		}
		tellAll(name, c.Commands)
	}
}
