package main

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Each mutation is one of the code as it is: what it changes is there, once; the result is Go; and
// the test that it names exists. Otherwise the list would rot, because it is rarely run.
func TestMutationsAreOfTheCode(t *testing.T) {
	names := make(map[string]bool)
	for _, m := range slices.Concat(mutations, vmMutations) {
		if names[m.name] {
			t.Errorf("two mutations have the name %q", m.name)
		}
		names[m.name] = true
		text, err := m.apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, text, parser.SkipObjectResolution); err != nil {
			t.Errorf("%s: with the change it is no Go: %v", m.name, err)
		}
		for _, test := range strings.Split(m.run, "|") {
			if !exists(t, m.test(), test) {
				t.Errorf("%s: %s has no test %s", m.name, m.test(), test)
			}
		}
	}
}

// exists tells whether a package has a test.
func exists(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := os.ReadDir(root + "/" + pkg)
	if err != nil {
		t.Error(err)
		return false
	}
	return slices.ContainsFunc(files, func(file os.DirEntry) bool {
		if !strings.HasSuffix(file.Name(), "_test.go") {
			return false
		}
		text, err := os.ReadFile(root + "/" + pkg + "/" + file.Name())
		return err == nil && strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)")
	})
}

// The changed file takes the place of the code's, and of nothing else.
func TestOverlay(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	m := mutation{name: "x", file: "mutation_test.go", old: "test/mutation has no such " + "text", new: ""}
	if _, err := m.overlay(here, t.TempDir()); err == nil || !strings.Contains(err.Error(), "0 times") {
		t.Errorf("a text that is not there: %v", err)
	}
	m = mutation{name: "x", file: "main.go", old: "package main\n", new: "package no\n"}
	list, err := m.overlay(here, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(overlay.Replace[filepath.Join(here, "main.go")])
	if err != nil || len(overlay.Replace) != 1 || !strings.Contains(string(changed), "\npackage no\n") {
		t.Errorf("%s: %v", text, err)
	}
}
