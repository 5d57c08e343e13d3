// Package expect compares the results of specs with those that a file says they have.
//
// The file has a line for each spec: its result, its name, and for all that do not
// pass a reason after " # ". A result is meant for both sandboxers unless "@shim" or
// "@podsandbox" follows it. Empty lines and lines that begin with "#" are comments;
// only those before the first spec survive an update.
//
//	passed          [k8s.io] Networking runtime should support DNS config
//	failed@shim     [k8s.io] PodSandbox should support safe sysctls # what keeps it from it
package expect

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A Result is what became of a spec.
type Result string

// The results.
const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Sandboxers are the ways in which containerd runs pods' sandboxes.
var Sandboxers = []string{"podsandbox", "shim"}

// noReason stands where a person has to write one.
const noReason = "reason?"

// An Expectation is a result and why it is not a pass.
type Expectation struct {
	Result Result
	Reason string
}

// Expectations are those of a file.
type Expectations struct {
	comment string
	specs   map[string]map[string]Expectation // by name and sandboxer
}

// Parse reads a file.
func Parse(file io.Reader) (*Expectations, error) {
	e := &Expectations{specs: make(map[string]map[string]Expectation)}
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			if len(e.specs) == 0 {
				e.comment += line + "\n"
			}
			continue
		}
		if err := e.parse(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return e, lines.Err()
}

func (e *Expectations) parse(line string) error {
	first, rest, _ := strings.Cut(line, " ")
	text, only, qualified := strings.Cut(first, "@")
	result, sandboxers := Result(text), Sandboxers
	if qualified {
		sandboxers = []string{only}
	}
	name, reason, _ := strings.Cut(rest+" ", " # ")
	name, reason = strings.TrimSpace(name), strings.TrimSpace(reason)
	switch {
	case result != Passed && result != Failed && result != Skipped:
		return fmt.Errorf("%q is no result", text)
	case qualified && !slices.Contains(Sandboxers, only):
		return fmt.Errorf("%q is no sandboxer", only)
	case name == "":
		return errors.New("a spec has no name")
	case result != Passed && reason == "":
		return fmt.Errorf("%s: no reason why it is expected to be %s", name, result)
	}
	for _, sandboxer := range sandboxers {
		if _, twice := e.specs[name][sandboxer]; twice {
			return fmt.Errorf("%s: a second line for %s", name, sandboxer)
		}
		e.set(name, sandboxer, Expectation{result, reason})
	}
	return nil
}

func (e *Expectations) set(name, sandboxer string, expectation Expectation) {
	if e.specs[name] == nil {
		e.specs[name] = make(map[string]Expectation)
	}
	e.specs[name][sandboxer] = expectation
}

// Expected is what is expected of a spec.
func (e *Expectations) Expected(sandboxer, name string) (Expectation, bool) {
	found, ok := e.specs[name][sandboxer]
	return found, ok
}

// Missing are the specs, sorted, that are expected and have no result. It is for a run
// of all specs.
func (e *Expectations) Missing(sandboxer string, results map[string]Result) (names []string) {
	for name, expected := range e.specs {
		if _, ok := expected[sandboxer]; ok && results[name] == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Compare says what is wrong with a spec's result, nothing if it is as expected.
func (e *Expectations) Compare(sandboxer, name string, result Result) error {
	expected, ok := e.Expected(sandboxer, name)
	switch {
	case !ok:
		return fmt.Errorf("%s, and the file does not have it", result)
	case expected.Result == result && expected.Reason == noReason:
		return fmt.Errorf("%s as expected, but the file has no reason for it", result)
	case expected.Result == result:
		return nil
	case expected.Result == Passed:
		return fmt.Errorf("%s, expected to have %s", result, expected.Result)
	}
	return fmt.Errorf("%s, expected to have %s: %s", result, expected.Result, expected.Reason)
}

// Update takes over results. A reason stays with its result; a new result that is no
// pass gets a place for one. What is new is taken to be so under both sandboxers,
// until a run of the other says something else.
func (e *Expectations) Update(sandboxer string, results map[string]Result) {
	for name, result := range results {
		expected, ok := e.Expected(sandboxer, name)
		if ok && expected.Result == result {
			continue
		}
		now := Expectation{Result: result}
		if result != Passed {
			now.Reason = noReason
		}
		if len(e.specs[name]) == 0 {
			for _, each := range Sandboxers {
				e.set(name, each, now)
			}
		}
		e.set(name, sandboxer, e.reason(name, now))
	}
}

// reason gives a result the reason that it has under the other sandboxer, if it does.
func (e *Expectations) reason(name string, now Expectation) Expectation {
	for _, other := range e.specs[name] {
		if other.Result == now.Result {
			return other
		}
	}
	return now
}

// Forget drops specs for a sandboxer.
func (e *Expectations) Forget(sandboxer string, names []string) {
	for _, name := range names {
		delete(e.specs[name], sandboxer)
	}
}

// Write writes the file, sorted by names: one line where all sandboxers agree, and one
// for each otherwise.
func (e *Expectations) Write(file io.Writer) error {
	text := e.comment
	for _, name := range slices.Sorted(maps.Keys(e.specs)) {
		each := e.specs[name]
		if same(each) {
			text += line("", name, each[Sandboxers[0]])
			continue
		}
		for _, sandboxer := range Sandboxers {
			if expected, ok := each[sandboxer]; ok {
				text += line("@"+sandboxer, name, expected)
			}
		}
	}
	_, err := io.WriteString(file, text)
	return err
}

func same(each map[string]Expectation) bool {
	if len(each) != len(Sandboxers) {
		return false
	}
	for _, expected := range each {
		if expected != each[Sandboxers[0]] {
			return false
		}
	}
	return true
}

func line(qualifier, name string, expected Expectation) string {
	reason := ""
	if expected.Result != Passed {
		reason = " # " + cmp.Or(expected.Reason, noReason)
	}
	return fmt.Sprintf("%-18s %s%s\n", string(expected.Result)+qualifier, name, reason)
}
