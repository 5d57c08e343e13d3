package client

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// The results that a test of the suite can have.
const (
	pass = "pass"
	fail = "fail"
	skip = "skip"
	// omit is for a test that is not run: it would not end, or take the others with it.
	omit = "omit"
	// missing is for one that was to run and has no result.
	missing = "no result"
)

// An expectation is a line of the file: a result, a test and a reason, which every
// result but pass needs.
type expectation struct {
	result, reason string
}

// expectations are by the test's name. Names of subtests have their test's before a
// slash.
type expectations map[string]expectation

func readExpectations(file string) (expectations, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := make(expectations)
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		result, rest, _ := strings.Cut(line, " ")
		name, reason, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if !slices.Contains([]string{pass, fail, skip, omit}, result) || name == "" {
			return nil, fmt.Errorf("%s:%d: want a result, a test and a reason: %s", file, number, line)
		}
		if _, ok := all[name]; ok {
			return nil, fmt.Errorf("%s:%d: %s is there twice", file, number, name)
		}
		all[name] = expectation{result: result, reason: strings.TrimSpace(reason)}
	}
	return all, scanner.Err()
}

// omitted are the tests not to run.
func (e expectations) omitted() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if e[name].result == omit {
			names = append(names, name)
		}
	}
	return names
}

// compare returns a sentence for each difference. Only tests that ran are looked at.
func (e expectations) compare(results map[string]string, ran func(name string) bool) (differences []string) {
	for _, name := range slices.Sorted(maps.Keys(results)) {
		switch expected, ok := e[name]; {
		case !ok:
			differences = append(differences, fmt.Sprintf("%s: %s, and the file does not have it", name, results[name]))
		case results[name] != expected.result:
			differences = append(differences, fmt.Sprintf("%s: %s, and should %s", name, results[name], expected.result))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		expected := e[name]
		if expected.result != pass && expected.reason == "" {
			differences = append(differences, fmt.Sprintf("%s: the file has no reason for %s", name, expected.result))
		}
		if _, ok := results[name]; !ok && expected.result != omit && ran(name) {
			differences = append(differences, fmt.Sprintf("%s: %s, and should %s", name, missing, expected.result))
		}
	}
	return differences
}

// update takes the results over and keeps the reasons of those that are the same,
// and whatever was not run.
func (e expectations) update(results map[string]string, ran func(name string) bool) expectations {
	updated := make(expectations)
	for name, expected := range e {
		if expected.result == omit || !ran(name) {
			updated[name] = expected
		}
	}
	for name, result := range results {
		now := expectation{result: result}
		if expected := e[name]; expected.result == result {
			now.reason = expected.reason
		}
		updated[name] = now
	}
	return updated
}

// write keeps the comment at the file's beginning.
func (e expectations) write(file string) error {
	var text strings.Builder
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(old)) {
		if line[0] != '#' {
			break
		}
		text.WriteString(line)
	}
	for _, name := range slices.Sorted(maps.Keys(e)) {
		text.WriteString(strings.TrimSpace(e[name].result+" "+name+" "+e[name].reason) + "\n")
	}
	return os.WriteFile(file, []byte(text.String()), 0o644)
}
