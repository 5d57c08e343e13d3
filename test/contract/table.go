package contract

import (
	"fmt"
	"regexp"
	"strings"
)

// A verdict is what the tests of a line said.
type verdict string

const (
	none   verdict = ""
	passed verdict = "pass"
	failed verdict = "FAIL"
)

var (
	result = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) `)
	name   = regexp.MustCompile(`[FD]M\d\d`)
)

// verdicts reads the output of "go test -v". A line holds if all its tests passed;
// a test that was skipped showed nothing.
func verdicts(output string) map[string]verdict {
	all := make(map[string]verdict)
	for text := range strings.Lines(output) {
		match := result.FindStringSubmatch(text)
		if match == nil {
			continue
		}
		// A subtest's lines are its own, not those of the tests around it.
		tests := strings.Split(match[2], "/")
		for _, line := range name.FindAllString(tests[len(tests)-1], -1) {
			switch {
			case match[1] != "PASS":
				all[line] = failed
			case all[line] == none:
				all[line] = passed
			}
		}
	}
	return all
}

// A run is one run of tests: on the host alone, or end to end under a driver.
type run struct {
	name     string
	verdicts map[string]verdict
}

// table is the contract as Markdown, and the lines that do not hold. A line holds
// if the host's tests show it, or those of every driver.
func table(lines []line, host run, drivers ...run) (text string, missing []string) {
	runs := append([]run{host}, drivers...)
	var out strings.Builder
	header, rule := "| | |", "|---|---|"
	for _, run := range runs {
		header += " " + run.name + " |"
		rule += "---|"
	}
	fmt.Fprintf(&out, "%s\n%s\n", header, rule)
	for _, line := range lines {
		fmt.Fprintf(&out, "| %s-%s | %s |", line.name[:2], line.name[2:], line.meaning)
		holds := host.verdicts[line.name] == passed
		everywhere := true
		for _, run := range runs {
			verdict := run.verdicts[line.name]
			if line.open != "" && verdict == none {
				fmt.Fprintf(&out, " %s |", line.open)
				continue
			}
			fmt.Fprintf(&out, " %s |", verdict)
			if verdict == failed {
				missing = append(missing, line.name+" on "+run.name)
			}
		}
		for _, driver := range drivers {
			everywhere = everywhere && driver.verdicts[line.name] != none
		}
		if !holds && !everywhere && line.open == "" {
			missing = append(missing, line.name+": no test has shown it")
		}
		fmt.Fprintln(&out)
	}
	return strings.ReplaceAll(out.String(), "  |", " |"), missing
}
