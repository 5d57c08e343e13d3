// Package hack has what builds the project besides Go, and its tests.
package hack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A shelf is a directory in which hack/kept keeps things, and a command that builds one.
type shelf struct {
	t                  *testing.T
	dir, inputs, count string
	command            string
}

// newShelf has a command whose inputs are a file, which it copies to what it builds; each build
// is counted.
func newShelf(t *testing.T) shelf {
	dir := t.TempDir()
	s := shelf{t: t, dir: dir, inputs: filepath.Join(dir, "inputs"), count: filepath.Join(dir, "count"), command: filepath.Join(dir, "command")}
	s.write(s.command, fmt.Sprintf(`#!/bin/bash
set -e
case $2 in
inputs) cat %[1]q ;;
build)
	echo "$1" >>%[2]q
	cat %[1]q >"$3"
	[[ $1 == plain ]] || echo "from $1" >"$3.origin"
	chmod 0755 "$3"
	[[ $1 != broken ]]
	;;
esac
`, s.inputs, s.count), 0o755)
	s.write(s.inputs, "one", 0o644)
	return s
}

func (s shelf) write(name, content string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		s.t.Fatal(err)
	}
}

func (s shelf) read(name string) string {
	s.t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(content)
}

// get asks for a thing, and returns what was said.
func (s shelf) get(output, argument string) (string, error) {
	cmd := exec.Command("./kept", "kind", output, s.command, argument)
	cmd.Env = append(os.Environ(), "MSB_CACHE="+filepath.Join(s.dir, "cache"))
	said, err := cmd.CombinedOutput()
	return string(said), err
}

func (s shelf) mustGet(output, argument string) {
	s.t.Helper()
	if said, err := s.get(output, argument); err != nil {
		s.t.Fatalf("%v: %s", err, said)
	}
}

func (s shelf) wantBuilds(want string) {
	s.t.Helper()
	if builds := strings.Fields(s.read(s.count)); strings.Join(builds, " ") != want {
		s.t.Errorf("built by %q, want %q", builds, want)
	}
}

// wantKept wants so many things to be kept, and nothing besides them.
func (s shelf) wantKept(want int) {
	s.t.Helper()
	kept, err := filepath.Glob(filepath.Join(s.dir, "cache", "kind", "*"))
	if err != nil || len(kept) != want+1 { // the lock
		s.t.Errorf("kept: %q, %v; want %d and the lock", kept, err, want)
	}
}

func TestKept(t *testing.T) {
	s := newShelf(t)
	first, second := filepath.Join(s.dir, "a", "first"), filepath.Join(s.dir, "second")
	s.mustGet(first, "plain")
	s.mustGet(second, "plain")
	s.wantBuilds("plain")
	for _, output := range []string{first, second} {
		info, err := os.Stat(output)
		if err != nil || info.Mode() != 0o755 || s.read(output) != "one" {
			t.Errorf("%s: %v, %v", output, info, err)
		}
		if _, err := os.Stat(output + ".origin"); err == nil {
			t.Errorf("%s has an origin that nobody told", output)
		}
	}

	s.write(second, "written to", 0o644) // a copy: what is kept stays as it is
	s.write(s.inputs, "two", 0o644)
	s.mustGet(first, "told")
	s.wantBuilds("plain told")
	if content, origin := s.read(first), s.read(first+".origin"); content != "two" || origin != "from told\n" {
		t.Errorf("%q from %q", content, origin)
	}
	s.write(s.inputs, "one", 0o644)
	s.mustGet(first, "told")
	s.wantBuilds("plain told")
	if content := s.read(first); content != "one" {
		t.Errorf("%q", content)
	}
	s.wantKept(2)
}

func TestKeptAtOnce(t *testing.T) {
	s := newShelf(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() { s.mustGet(filepath.Join(s.dir, fmt.Sprint(i)), "told") })
	}
	all.Wait()
	s.wantBuilds("told")
	s.wantKept(1)
}

// What cannot be built is neither kept nor put into the place of what is there.
func TestKeptNothing(t *testing.T) {
	s := newShelf(t)
	output := filepath.Join(s.dir, "output")
	s.write(output, "there", 0o644)
	refused := func(argument string) {
		t.Helper()
		if said, err := s.get(output, argument); err == nil {
			t.Errorf("%s: succeeded: %s", argument, said)
		}
		if content := s.read(output); content != "there" {
			t.Errorf("%s: %q", argument, content)
		}
		s.wantKept(0)
	}
	refused("broken")
	if err := os.Remove(s.inputs); err != nil {
		t.Fatal(err)
	}
	refused("told") // its inputs cannot be told
	s.wantBuilds("broken")

	s.write(s.inputs, "one", 0o644)
	left := filepath.Join(s.dir, "cache", "kind", "work-killed")
	if err := os.MkdirAll(filepath.Join(left, "much"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.mustGet(output, "told")
	s.wantKept(1)
}

func TestKeptNowhere(t *testing.T) {
	s := newShelf(t)
	s.write(filepath.Join(s.dir, "cache"), "a file", 0o644)
	if said, err := s.get(filepath.Join(s.dir, "output"), "told"); err == nil || !strings.Contains(said, "set MSB_CACHE to a directory that can") {
		t.Errorf("%v: %s", err, said)
	}
}

// A program that is as it was keeps its file, with its times, which say which VMs are for it.
func TestProgram(t *testing.T) {
	s := shelf{t: t, dir: t.TempDir()}
	script, err := filepath.Abs("program")
	if err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(s.dir, "go.mod"), "module example.com/program\n", 0o644)
	output := filepath.Join(s.dir, "bin", "program")
	build := func(content string) os.FileInfo {
		t.Helper()
		s.write(filepath.Join(s.dir, "main.go"), content, 0o644)
		cmd := exec.Command(script, filepath.Join(s.dir, "build"), output, ".", "-ldflags", "-s -w")
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		info, err := os.Stat(output)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	const main = "package main\nfunc main() { println(%q) }\n"
	first := build(fmt.Sprintf(main, "one"))
	if again := build(fmt.Sprintf(main, "one")); !os.SameFile(first, again) || first.Sys().(*syscall.Stat_t).Ctim != again.Sys().(*syscall.Stat_t).Ctim {
		t.Errorf("the same program was touched: %v, %v", first, again)
	}
	if other := build(fmt.Sprintf(main, "two")); os.SameFile(first, other) || other.Mode()&0o111 == 0 {
		t.Errorf("another program: %v", other)
	}
}
