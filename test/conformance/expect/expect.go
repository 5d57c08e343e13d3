// Package expect compares the results of others' tests with those that a file says
// they have.
//
// The file has a line for each test: its result, its name, and for all that do not
// pass a reason after " # ". Where a suite runs in variants, a result is meant for all
// of them unless "@" and the name of one follows it. Empty lines and lines that begin
// with "#" are comments; only those before the first test survive an update.
//
//	passed          [k8s.io] Networking runtime should support DNS config
//	failed@shim     [k8s.io] PodSandbox should support safe sysctls # what keeps it from it
//	omitted         TestReload100Pods # why it is not even run
package expect

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// A Result is what became of a test.
type Result string

// The results.
const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped"
	// Omitted is for a test that is not run: it would not end, or it is about
	// something else.
	Omitted Result = "omitted"
)

var results = []Result{Passed, Failed, Skipped, Omitted}

// Sandboxers are the ways in which containerd runs pods' sandboxes: the variants of
// suites of pods.
var Sandboxers = []string{"podsandbox", "shim"}

// Single are the variants of a suite that has none.
var Single = []string{""}

// noReason stands where a person has to write one.
const noReason = "reason?"

// An Expectation is a result and why it is not a pass.
type Expectation struct {
	Result Result
	Reason string
}

// Expectations are those of a file.
type Expectations struct {
	comment  string
	variants []string
	tests    map[string]map[string]Expectation // by name and variant
}

// Read reads the file of a suite with these variants.
func Read(path string, variants []string) (*Expectations, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	e, err := Parse(file, variants)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// Parse is Read of a file that is open.
func Parse(file io.Reader, variants []string) (*Expectations, error) {
	e := &Expectations{variants: variants, tests: make(map[string]map[string]Expectation)}
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			if len(e.tests) == 0 {
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
	result, variants := Result(text), e.variants
	if qualified {
		variants = []string{only}
	}
	name, reason, _ := strings.Cut(rest+" ", " # ")
	name, reason = strings.TrimSpace(name), strings.TrimSpace(reason)
	switch {
	case !slices.Contains(results, result):
		return fmt.Errorf("%q is no result", text)
	case qualified && !slices.Contains(e.variants, only):
		return fmt.Errorf("%q is no variant of this suite", only)
	case name == "":
		return errors.New("a test has no name")
	case result != Passed && reason == "":
		return fmt.Errorf("%s: no reason why it is expected to be %s", name, result)
	}
	for _, variant := range variants {
		if _, twice := e.tests[name][variant]; twice {
			return fmt.Errorf("%s: a second line for %s", name, cmp.Or(variant, "it"))
		}
		e.set(name, variant, Expectation{result, reason})
	}
	return nil
}

func (e *Expectations) set(name, variant string, expectation Expectation) {
	if e.tests[name] == nil {
		e.tests[name] = make(map[string]Expectation)
	}
	e.tests[name][variant] = expectation
}

// Expected is what is expected of a test.
func (e *Expectations) Expected(variant, name string) (Expectation, bool) {
	found, ok := e.tests[name][variant]
	return found, ok
}

// Omitted are the tests, sorted, that are not to be run.
func (e *Expectations) Omitted(variant string) []string {
	return e.names(variant, func(_ string, expected Expectation) bool { return expected.Result == Omitted })
}

// Missing are the tests, sorted, that are expected to run and have no result. Only
// those that were selected are looked at.
func (e *Expectations) Missing(variant string, results map[string]Result, selected func(name string) bool) []string {
	return e.names(variant, func(name string, expected Expectation) bool {
		return expected.Result != Omitted && results[name] == "" && selected(name)
	})
}

// names are those of the tests that a condition holds for, sorted.
func (e *Expectations) names(variant string, condition func(string, Expectation) bool) (names []string) {
	for name, each := range e.tests {
		if expected, ok := each[variant]; ok && condition(name, expected) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Compare says what is wrong with a test's result, nothing if it is as expected.
func (e *Expectations) Compare(variant, name string, result Result) error {
	expected, ok := e.Expected(variant, name)
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

// Update takes over results, and drops what is missing. A reason stays with its result;
// a new result that is no pass gets a place for one. What is new is taken to be so in all
// variants, until a run of another says something else.
func (e *Expectations) Update(variant string, results map[string]Result, missing []string) {
	for name, result := range results {
		expected, ok := e.Expected(variant, name)
		if ok && expected.Result == result {
			continue
		}
		now := Expectation{Result: result}
		if result != Passed {
			now.Reason = noReason
		}
		if len(e.tests[name]) == 0 {
			for _, each := range e.variants {
				e.set(name, each, now)
			}
		}
		e.set(name, variant, e.reason(name, now))
	}
	for _, name := range missing {
		delete(e.tests[name], variant)
	}
}

// reason gives a result the reason that it has in another variant, if it does.
func (e *Expectations) reason(name string, now Expectation) Expectation {
	for _, other := range e.tests[name] {
		if other.Result == now.Result {
			return other
		}
	}
	return now
}

// Write writes the file, sorted by names: one line where all variants agree, and one
// for each otherwise.
func (e *Expectations) Write(path string) error {
	return os.WriteFile(path, []byte(e.String()), 0o644)
}

// String is what Write writes.
func (e *Expectations) String() string {
	text := e.comment
	for _, name := range slices.Sorted(maps.Keys(e.tests)) {
		each := e.tests[name]
		if e.same(each) {
			text += line("", name, each[e.variants[0]])
			continue
		}
		for _, variant := range e.variants {
			if expected, ok := each[variant]; ok {
				text += line("@"+variant, name, expected)
			}
		}
	}
	return text
}

func (e *Expectations) same(each map[string]Expectation) bool {
	if len(each) != len(e.variants) {
		return false
	}
	for _, expected := range each {
		if expected != each[e.variants[0]] {
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
