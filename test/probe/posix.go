package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posix DIR [EXCEPT ...] runs the tests that go-fuse has for any file system, but those that are
// named, each in a directory of its own below DIR. It prints what go test prints, and ends the process.
func posix(args []string) error {
	testing.Init()
	if err := flag.CommandLine.Parse([]string{"-test.v"}); err != nil {
		return err
	}
	var tests []testing.InternalTest
	for name, test := range posixtest.All {
		if slices.Contains(args[1:], name) {
			continue
		}
		tests = append(tests, testing.InternalTest{Name: name, F: func(t *testing.T) {
			dir := filepath.Join(args[0], name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test(t, dir)
		}})
	}
	slices.SortFunc(tests, func(a, b testing.InternalTest) int { return strings.Compare(a.Name, b.Name) })
	testing.Main(func(string, string) (bool, error) { return true, nil }, tests, nil, nil)
	return nil
}
