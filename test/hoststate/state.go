package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A state is what is compared. Each map is from a thing's name to what it is like.
type state struct {
	// Files has of each its mode, size and the time of its last change (ctime), which
	// nobody can set back: it tells a change of the content, too.
	Files map[string]string
	// Sysctls are those that can be written.
	Sysctls map[string]string
	// Clock is the time at which the machine started, by its clock: setting that moves it.
	Clock time.Time

	Mounts, Interfaces, Groups, Processes map[string]string
	// Temporary are things in the temporary folder: see temporary.
	Temporary map[string]string
}

// clockSlack is what an NTP client may correct meanwhile.
const clockSlack = 10 * time.Second

// resolver is written by whoever configures the network, at any time.
const resolver = "/etc/resolv.conf"

// most is how many differences of one kind are named.
const most = 20

func read() (s state, err error) {
	if s.Files, err = files("/usr", "/etc"); err != nil {
		return state{}, err
	}
	s.Sysctls = sysctls("/proc/sys")
	if s.Clock, err = started(); err != nil {
		return state{}, err
	}
	if s.Mounts, err = mounts(); err != nil {
		return state{}, err
	}
	if s.Interfaces, err = names("/sys/class/net"); err != nil {
		return state{}, err
	}
	others := harness.Owners()
	if s.Groups, err = groups("/sys/fs/cgroup", others); err != nil {
		return state{}, err
	}
	s.Processes = processes(others)
	s.Temporary, err = readTemporary()
	return s, err
}

// compare names what differs.
func compare(before, now state, resting bool) (differences []string) {
	differences = append(differences, differ("file", before.Files, now.Files)...)
	differences = append(differences, differ("sysctl", both(before.Sysctls, now.Sysctls), both(now.Sysctls, before.Sysctls))...)
	if moved := now.Clock.Sub(before.Clock); moved.Abs() > clockSlack {
		differences = append(differences, fmt.Sprintf("the clock was set by %v", moved.Round(time.Second)))
	}
	if !resting {
		return differences
	}
	differences = append(differences, differ("mount", both(before.Mounts, now.Mounts), now.Mounts)...)
	differences = append(differences, differ("network interface", both(before.Interfaces, now.Interfaces), now.Interfaces)...)
	differences = append(differences, compareLeft("control group", before.Groups, now.Groups)...)
	differences = append(differences, differ("process", both(before.Processes, now.Processes), now.Processes)...)
	return append(differences, compareLeft("temporary", before.Temporary, now.Temporary)...)
}

// both has of one map what the other has, too: a module that is loaded brings sysctls, and
// what has gone is not left by anybody.
func both(one, other map[string]string) map[string]string {
	shared := maps.Clone(one)
	maps.DeleteFunc(shared, func(name, _ string) bool {
		_, found := other[name]
		return !found
	})
	return shared
}

func differ(kind string, before, now map[string]string) (differences []string) {
	for name, was := range before {
		switch is, found := now[name]; {
		case !found:
			differences = append(differences, fmt.Sprintf("%s %s is gone", kind, name))
		case is != was:
			differences = append(differences, fmt.Sprintf("%s %s was %s and is %s", kind, name, was, is))
		}
	}
	for name := range now {
		if _, found := before[name]; !found {
			differences = append(differences, fmt.Sprintf("%s %s is new", kind, name))
		}
	}
	slices.Sort(differences)
	if more := len(differences) - most; more > 0 {
		differences = append(differences[:most], fmt.Sprintf("and %d more of kind %s", more, kind))
	}
	return differences
}

func files(roots ...string) (map[string]string, error) {
	found := make(map[string]string)
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it has just gone
			}
			if err != nil {
				return err
			}
			// A directory changes whenever something in it comes or goes, which is named itself.
			if entry.IsDir() {
				found[path] = "a directory"
				return nil
			}
			var stat unix.Stat_t
			switch err := unix.Lstat(path, &stat); {
			case path == resolver || errors.Is(err, unix.ENOENT):
				return nil
			case err != nil:
				return err
			}
			found[path] = fmt.Sprintf("of mode %o, %d bytes, changed %s", stat.Mode, stat.Size, time.Unix(stat.Ctim.Unix()).UTC().Format(time.RFC3339Nano))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// noted are sysctls in which the kernel itself notes something.
var noted = []string{"ns_last_pid", "tainted", "hung_task_warnings", "perf_event_max_sample_rate"}

// sysctls are those that can be written and read.
func sysctls(root string) map[string]string {
	found := make(map[string]string)
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // a network interface that is just going
		}
		info, err := entry.Info()
		if err != nil || info.Mode().Perm()&0o200 == 0 || info.Mode().Perm()&0o400 == 0 {
			return nil
		}
		if slices.Contains(noted, filepath.Base(path)) {
			return nil
		}
		if content, err := os.ReadFile(path); err == nil {
			name := strings.ReplaceAll(strings.TrimPrefix(path, root+"/"), "/", ".")
			found[name] = fmt.Sprintf("%q", strings.TrimSpace(string(content)))
		}
		return nil
	})
	return found
}

// started is when the machine did, by its clock.
func started() (time.Time, error) {
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return time.Time{}, err
	}
	return time.Now().Round(0).Add(-time.Duration(since.Nano())), nil
}

// mounts are those of this mount namespace: where, and what.
func mounts() (map[string]string, error) {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return strings.HasPrefix(m.Mountpoint, "/run/user/"), false })
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for _, m := range all {
		found[fmt.Sprint(m.ID, " ", m.Mountpoint)] = strings.Join([]string{m.Options, m.FSType, m.Source, m.VFSOptions}, " ")
	}
	return found, nil
}

func names(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for _, entry := range entries {
		found[entry.Name()] = ""
	}
	return found, nil
}

// processes are those that containers consist of, but for those of other tests that run.
func processes(others []harness.Owner) map[string]string {
	found := make(map[string]string)
	for pid, name := range harness.Processes() {
		if !slices.ContainsFunc(others, func(o harness.Owner) bool { return o.Has(pid) }) {
			found[fmt.Sprintf("%s (process %d)", name, pid)] = ""
		}
	}
	return found
}

// ourGroups are what tests and their clients name control groups.
var ourGroups = regexp.MustCompile(`/(test-[0-9]+|msb[^/]*|k8s\.io|kubepods[^/]*|docker[^/]*|buildkit[^/]*)(/|$)`)

// groups are the control groups, but for those of services and sessions, and of other tests
// that run. One with processes that has not one of our names is somebody's who uses it.
func groups(root string, others []harness.Owner) (map[string]string, error) {
	theirs := make(map[string]bool)
	for _, other := range others {
		theirs[other.Namespace], theirs[filepath.Base(other.Dir)] = true, true
	}
	found := make(map[string]string)
	return found, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := filepath.Base(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV):
			return nil // it has just gone
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case theirs[name] || strings.HasSuffix(name, ".slice") || strings.HasSuffix(name, ".scope") || strings.HasSuffix(name, ".service"):
			return fs.SkipDir
		}
		found[path] = ""
		if procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs")); err == nil && len(procs) > 0 && !ourGroups.MatchString(path) {
			for used := path; used != root && used != "."; used = filepath.Dir(used) {
				found[used] = inUse
			}
		}
		return nil
	})
}
