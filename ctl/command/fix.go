package command

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
)

// A fixer does what can be done about the lines of a check, one by one.
type fixer struct {
	tell    io.Writer
	yes     bool // nothing is asked
	answers *bufio.Reader
	apply   func(check.Remedy) error

	tried int // how many were not refused
}

// fixed is what became of a remedy.
type fixed struct {
	For     []string `json:"for"`
	Command string   `json:"command"`
	// Outcome is done, failed or refused, Error why it failed.
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

// fix tells each remedy before it asks and does it.
func (f *fixer) fix(fixes []check.Fix) (all []fixed) {
	done := 0
	for _, fix := range fixes {
		one := fixed{For: fix.For, Command: fix.Remedy.String(), Outcome: "refused"}
		fmt.Fprintf(f.tell, "fix: %s (%s)\n", one.Command, strings.Join(one.For, ", "))
		if f.yes || f.ask() {
			f.tried++
			if err := f.apply(fix.Remedy); err != nil {
				one.Outcome, one.Error = "failed", err.Error()
				fmt.Fprintf(f.tell, "fix: %s has failed: %v\n", one.Command, err)
			} else {
				one.Outcome = "done"
				done++
			}
		}
		all = append(all, one)
	}
	if done > 0 {
		fmt.Fprintln(f.tell, "fix: modules stay until the next boot; a file in /etc/modules-load.d that names them has them loaded then, too")
	}
	return all
}

// ask reads an answer. No answer is a no.
func (f *fixer) ask() bool {
	fmt.Fprint(f.tell, "     do it? [y/N] ")
	answer, err := f.answers.ReadString('\n')
	if err != nil {
		fmt.Fprintln(f.tell)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}
