package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each way is measured as often as the others, and is the first of a round as often as they are.
func TestInTurns(t *testing.T) {
	defer func(rounds int) { *startRounds = rounds }(*startRounds)
	*startRounds = 3
	ways := []*way{{name: "a"}, {name: "b"}}
	var order []string
	err := inTurns(ways, func(w *way, round int) (time.Duration, error) {
		order = append(order, w.name)
		return time.Duration(round), nil
	})
	if want := []string{"a", "b", "b", "a", "a", "b"}; err != nil || !slices.Equal(order, want) {
		t.Errorf("%v in the order %v, want %v", err, order, want)
	}
	for _, w := range ways {
		if want := []time.Duration{0, 1, 2}; !slices.Equal(w.times, want) {
			t.Errorf("%s took %v, want %v", w.name, w.times, want)
		}
	}
	failed := errors.New("failed")
	if err := inTurns(ways, func(*way, int) (time.Duration, error) { return 0, failed }); !errors.Is(err, failed) || err.Error() != "a: failed" {
		t.Errorf("of one that fails: %v", err)
	}
}

// A build is taken by its shim's path, which containerd wants absolute; what is none is named.
func TestBuildOptions(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, file := range []string{"build/bin/containerd-shim-msb-v2", "build/lib/msb/guest.erofs", "shim/bin/containerd-shim-msb-v2"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for output, missing := range map[string]string{
		"build": "", filepath.Join(here, "build"): "", "shim": "lib/msb/guest.erofs", "nothing": "bin/containerd-shim-msb-v2",
	} {
		options, err := buildOptions(output, "/c.toml")
		if missing != "" {
			if err == nil || !strings.HasPrefix(err.Error(), output+" is no build's output: run make build there") || !strings.Contains(err.Error(), missing) {
				t.Errorf("of %s: %q, %v, and no word of %s", output, options, err, missing)
			}
			continue
		}
		want := []string{"--runtime", filepath.Join(here, "build/bin/containerd-shim-msb-v2"), "--runtime-config-path", "/c.toml"}
		if err != nil || !slices.Equal(options, want) {
			t.Errorf("of %s: %q, %v, want %q", output, options, err, want)
		}
	}
}
