package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ours begin the names that this project's programs and their clients give to what they make in the
// temporary folder.
var ours = []string{"msb-", "msbctl-", "nerdctl-", "containerd-", "ctr-", "crictl-", "docker-", "buildkit-"}

// inUse is what a thing in the temporary folder, or a control group, is like that a process has: it
// is left by nobody.
const inUse = "in use"

// temporary are the things of a folder that are ours. Those in use are below one of some paths, or
// have one below them.
func temporary(names, paths []string, folder string) map[string]string {
	used := make(map[string]bool)
	for _, path := range paths {
		if below, ok := strings.CutPrefix(path, folder+"/"); ok {
			name, _, _ := strings.Cut(below, "/")
			used[name] = true
		}
	}
	found := make(map[string]string)
	for _, name := range names {
		if !slices.ContainsFunc(ours, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		path := filepath.Join(folder, name)
		found[path] = ""
		if used[name] {
			found[path] = inUse
		}
	}
	return found
}

// compareLeft names what is left of a kind: it was not there before, and nobody has it.
func compareLeft(kind string, before, now map[string]string) []string {
	left := make(map[string]string)
	for path, is := range now {
		if is != inUse {
			left[path] = ""
		}
	}
	was := make(map[string]string)
	for path := range before {
		was[path] = ""
	}
	return differ(kind, both(was, left), left)
}

// awaitTemporary looks at the temporary folder again, for a minute at most, while something seems to
// be left there: others' things are in use now and then only.
func awaitTemporary(before state, now *state) (err error) {
	for range 60 {
		if len(compareLeft("temporary", before.Temporary, now.Temporary)) == 0 {
			return nil
		}
		time.Sleep(time.Second)
		if now.Temporary, err = readTemporary(); err != nil {
			return err
		}
	}
	return nil
}

// readTemporary reads the temporary folder.
func readTemporary() (map[string]string, error) {
	folder, err := filepath.EvalSymlinks(os.TempDir()) // processes are told with paths without links
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return temporary(names, usedPaths("/proc", folder), folder), nil
}

// usedPaths are the paths in a folder that processes have open, work in or were started with.
func usedPaths(proc, folder string) (paths []string) {
	for _, pattern := range []string{"cwd", "root", "exe", "fd/*"} {
		links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", pattern))
		for _, link := range links {
			if path, err := os.Readlink(link); err == nil {
				paths = append(paths, path)
			}
		}
	}
	lines, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	for _, file := range lines {
		line, _ := os.ReadFile(file)
		for rest := string(line); ; {
			at := strings.Index(rest, folder+"/")
			if at < 0 {
				break
			}
			path := rest[at:]
			if end := strings.IndexAny(path, "\x00,:=' \""); end >= 0 {
				path = path[:end]
			}
			paths = append(paths, path)
			rest = rest[at+len(folder)+1:]
		}
	}
	return paths
}
