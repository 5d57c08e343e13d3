package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/command"
)

// The page has each command's line, description and flags.
func TestManual(t *testing.T) {
	page, err := manual()
	if err != nil {
		t.Fatal(err)
	}
	// Without what is roff's: fonts, and lines of its own.
	text := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\.[A-Z].*$|\\f[A-Z]|\\`).ReplaceAllString(page, "")), " ")
	var look func(parent string, commands []*cli.Command)
	look = func(parent string, commands []*cli.Command) {
		for _, c := range commands {
			name := parent + " " + c.Name
			if look(name, c.Commands); len(c.Commands) > 0 {
				continue
			}
			wanted := []string{name + " [options] " + c.ArgsUsage, strings.Join(strings.Fields(c.Description), " ")}
			for _, flag := range c.Flags {
				wanted = append(wanted, "--"+flag.Names()[0])
			}
			for _, want := range wanted {
				if !strings.Contains(text, want) {
					t.Errorf("the page does not have, of %s: %s", name, want)
				}
			}
		}
	}
	look("msbctl", command.Root(io.Discard, io.Discard).Commands)
}
