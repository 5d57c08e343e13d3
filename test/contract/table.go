package contract

import (
	"cmp"
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
	name   = regexp.MustCompile(`[FDV]M\d\d`)
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
// if the host's tests show it, or those of every driver, or those of one if no VMM has a
// part in it.
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
		shown := 0
		for _, driver := range drivers {
			if driver.verdicts[line.name] != none {
				shown++
			}
		}
		holds := host.verdicts[line.name] == passed || shown == len(drivers) || line.by != "" && shown > 0
		for i, run := range runs {
			verdict := run.verdicts[line.name]
			cell := cmp.Or(string(verdict), line.open)
			if i > 0 { // a driver's
				cell = cmp.Or(cell, line.by)
			}
			fmt.Fprintf(&out, " %s |", cell)
			if verdict == failed {
				missing = append(missing, line.name+" on "+run.name)
			}
		}
		if !holds && line.open == "" {
			missing = append(missing, line.name+": no test has shown it")
		}
		fmt.Fprintln(&out)
	}
	return strings.ReplaceAll(out.String(), "  |", " |"), missing
}
