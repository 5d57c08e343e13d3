// msb-manual prints msbctl's manual page, made of the commands and flags that msbctl has.
package main

import (
	"fmt"
	"io"
	"os"

	docs "github.com/urfave/cli-docs/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/command"
)

const section = 8 // commands of the administrator

func main() {
	page, err := docs.ToManWithSection(command.Root(io.Discard, io.Discard), section)
	if err == nil {
		_, err = fmt.Print(page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "msb-manual:", err)
		os.Exit(1)
	}
}
