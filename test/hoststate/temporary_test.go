package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestTemporary(t *testing.T) {
	names := []string{"msb-1", "msb-2", "nerdctl-cp-1", "containerd-mount1", "other", "msbx"}
	paths := []string{"/t/msb-1/a/b", "/t/msb-11", "/u/t/msb-2", "/usr/bin", "/t/other", "/t"}
	want := map[string]string{"/t/msb-1": inUse, "/t/msb-2": "", "/t/nerdctl-cp-1": "", "/t/containerd-mount1": ""}
	if got := temporary(names, paths, "/t"); !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCompareLeft(t *testing.T) {
	for name, c := range map[string]struct {
		before, now map[string]string
		want        []string
	}{
		"nothing":              {nil, nil, nil},
		"new":                  {nil, map[string]string{"/t/msb-1": "", "/t/msb-2": ""}, []string{"temporary /t/msb-1 is new", "temporary /t/msb-2 is new"}},
		"another's that works": {nil, map[string]string{"/t/msb-1": inUse}, nil},
		"there before":         {map[string]string{"/t/msb-1": ""}, map[string]string{"/t/msb-1": ""}, nil},
		"left by an earlier":   {map[string]string{"/t/msb-1": inUse}, map[string]string{"/t/msb-1": ""}, nil},
		"gone":                 {map[string]string{"/t/msb-1": "", "/t/msb-2": inUse}, nil, nil},
	} {
		if got := compareLeft("temporary", c.before, c.now); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		resting, busy := compare(state{Temporary: c.before}, state{Temporary: c.now}, true), compare(state{Temporary: c.before}, state{Temporary: c.now}, false)
		if !slices.Equal(resting, c.want) || len(busy) > 0 {
			t.Errorf("%s: at rest %q, want %q; beside tests %q", name, resting, c.want, busy)
		}
	}
}

// What a process has open, works in or was started with is found.
func TestUsedPaths(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"open", "cwd", "argument", "nobodys"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Create(filepath.Join(folder, "open", "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("sh", "-c", "read x", "sh", "--socket="+filepath.Join(folder, "argument", "s")+",more")
	cmd.Dir = filepath.Join(folder, "cwd")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	paths := usedPaths("/proc", folder)
	for _, want := range []string{"open/file", "cwd", "argument/s"} {
		if !slices.Contains(paths, filepath.Join(folder, want)) {
			t.Errorf("%s is not among %q", want, paths)
		}
	}
	if slices.Contains(paths, filepath.Join(folder, "nobodys")) {
		t.Error("what nobody has is in use")
	}
}

// What another removes meanwhile is not left.
func TestAwaitTemporary(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	name := filepath.Join(folder, "msb-1")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	var now state
	var err error
	if now.Temporary, err = readTemporary(); err != nil || len(compareLeft("temporary", nil, now.Temporary)) != 1 {
		t.Fatalf("%q, %v", now.Temporary, err)
	}
	removed := time.AfterFunc(100*time.Millisecond, func() { _ = os.Remove(name) })
	defer removed.Stop()
	if err := awaitTemporary(state{}, &now); err != nil || len(compareLeft("temporary", nil, now.Temporary)) != 0 {
		t.Errorf("%q, %v", now.Temporary, err)
	}
}
