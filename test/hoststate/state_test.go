package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	boot := time.Unix(1_700_000_000, 0)
	before := state{
		Files:   map[string]string{"/usr/bin/a": "x", "/usr/bin/b": "x"},
		Sysctls: map[string]string{"kernel.core_pattern": "core", "net.ipv4.conf.eth7.forwarding": "1"},
		Clock:   boot, Mounts: map[string]string{"1 /": "rw"},
		Interfaces: map[string]string{"lo": ""}, Groups: map[string]string{"/sys/fs/cgroup": ""}, Processes: map[string]string{},
	}
	for name, c := range map[string]struct {
		change  func(*state)
		resting bool
		want    []string
	}{
		"nothing": {change: func(*state) {}, resting: true},
		"files": {
			change: func(s *state) {
				s.Files = map[string]string{"/usr/bin/a": "y", "/usr/bin/c": "x"}
			},
			want: []string{"file /usr/bin/a was x and is y", "file /usr/bin/b is gone", "file /usr/bin/c is new"},
		},
		"a sysctl": {
			change: func(s *state) { s.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} },
			want:   []string{"sysctl kernel.core_pattern was core and is |/x"},
		},
		"sysctls of what has come and gone": {
			change: func(s *state) {
				s.Sysctls = map[string]string{"kernel.core_pattern": "core", "net.ipv4.conf.eth8.forwarding": "1"}
			},
		},
		"the clock":   {change: func(s *state) { s.Clock = boot.Add(-time.Hour) }, want: []string{"the clock was set by -1h0m0s"}},
		"NTP":         {change: func(s *state) { s.Clock = boot.Add(time.Second) }},
		"a busy host": {change: func(s *state) { s.Mounts = nil; s.Groups = nil; s.Interfaces = nil }},
		"what is left": {
			change: func(s *state) {
				s.Mounts = map[string]string{"1 /": "ro", "2 /x": "rw"}
				s.Interfaces = map[string]string{"lo": "", "veth0": ""}
				s.Groups = map[string]string{"/sys/fs/cgroup": "", "/sys/fs/cgroup/x": ""}
				s.Processes = map[string]string{"virtiofsd (process 7)": ""}
			},
			resting: true,
			want: []string{
				"mount 1 / was rw and is ro", "mount 2 /x is new", "network interface veth0 is new",
				"control group /sys/fs/cgroup/x is new", "process virtiofsd (process 7) is new",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := before
			c.change(&now)
			if got := compare(before, now, c.resting); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCompareNamesSome(t *testing.T) {
	now := state{Files: make(map[string]string)}
	for i := range 100 {
		now.Files[strings.Repeat("x", i+1)] = ""
	}
	if got := compare(state{}, now, false); len(got) != most+1 || got[most] != "and 80 more of kind file" {
		t.Errorf("%d differences, the last is %q", len(got), got[len(got)-1])
	}
}

// A program that was overwritten by as many bytes, and whose time of modification was set
// back, is seen.
func TestFilesSeeWhatHides(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("good"), 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	before, err := files(dir)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Millisecond) { // until the file system's clock has moved
		if err := os.WriteFile(program, []byte("evil"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(program, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		now, err := files(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := differ("file", before, now); len(got) == 1 && strings.Contains(got[0], program) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("not seen")
		}
	}
}

// Reading the state twice finds the same, as far as nobody changes anything meanwhile.
func TestReadFindsTheSame(t *testing.T) {
	var before, now [2]map[string]string
	for i, root := range []string{"/proc/sys/kernel", "/proc/sys/vm"} {
		before[i], now[i] = sysctls(root), sysctls(root)
		if got := differ("sysctl", before[i], now[i]); len(got) > 0 || len(before[i]) < 10 {
			t.Errorf("%d sysctls of %s, and %q", len(before[i]), root, got)
		}
	}
	if _, err := started(); err != nil {
		t.Error(err)
	}
	found, err := mounts()
	if err != nil || len(found) == 0 {
		t.Errorf("mounts %v, %v", found, err)
	}
}

// A group in which somebody's process works is not left, unless its name is one of ours.
func TestGroupsInUse(t *testing.T) {
	root := t.TempDir()
	for group, procs := range map[string]string{
		"session": "", "session/job": "12\n", "empty": "", "test-7": "", "test-7/container": "13\n", "k8s.io/x": "14\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, group, "cgroup.procs"), []byte(procs), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now, err := groups(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, left := range []string{"empty", "k8s.io", "k8s.io/x", "test-7", "test-7/container"} {
		want = append(want, "control group "+filepath.Join(root, left)+" is new")
	}
	if got := compareLeft("control group", map[string]string{root: ""}, now); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
