package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a process is started as, and what becomes of one that cannot be, is as under runc: the
// guest's runtime is another. The containers of each runtime are beside each other in one kernel,
// so that nothing that one has left is another's.
func TestProcessBesideRunc(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"script": "#!/nowhere\n", "format": "neither\x00nor\n", "a`b": "#!/bin/sh\necho ran\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made := oci.WithMounts([]specs.Mount{{Type: "bind", Source: dir, Destination: "/made", Options: []string{"rbind", "ro"}}})
	commands := []string{"nosuch", "no\nsuch", "/nosuch", "/etc", "/etc/passwd", "/dev/null", "/made/script", "/made/format", "/made/a`b", "/made/a`c"}
	score := 321
	theirs, ours := bothSides(t)
	results := map[string]map[string]string{}
	for _, side := range []side{theirs, ours} {
		seen := map[string]string{}
		add := func(name string, o outcome) {
			// containerd's shim for runc is of the same process, and loses the class of an error.
			seen[name] = strings.TrimSuffix(o.String(), ": unknown")
		}
		for _, command := range commands {
			add(fmt.Sprintf("%q", command), side.run(t, made, command))
		}
		for _, number := range []*uint{new(uint(1)), new(uint(28)), nil, new(uint(0)), new(uint(38)), new(uint(28))} {
			name := "none"
			if number != nil {
				name = fmt.Sprint(*number)
			}
			add("mkdir refused with "+name, side.run(t, refusing("mkdir", number), "mkdir", "/made-here"))
		}
		add("a directory that is not there", side.run(t, oci.WithProcessCwd("/not/there"), "pwd"))
		add("no HOME", side.run(t, oci.WithEnv([]string{"HOME="}), "sh", "-c", "echo $HOME"))
		add("options of /dev/null", side.run(t, oci.WithUserID(1000), "stat", "-c", "%u %g %a", "/dev/null"))
		c := side.start(t, made, func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
			s.Process.OOMScoreAdj = &score
			return nil
		})
		seen["exec's oom_score_adj"] = c.must("cat /proc/self/oom_score_adj /proc/1/oom_score_adj")
		seen["/dev/null after execs"] = c.must("stat -c '%u %g %a' /dev/null")
		results[side.runtime] = seen
	}
	compareBeside(t, results[theirs.runtime], results[ours.runtime], map[string]string{
		fmt.Sprintf("%q", "no\nsuch"): "an error of msb's is one line",
	})
}

// refusing has a filter refuse a system call with an error, by its number; nil is the runtime's own.
func refusing(call string, number *uint) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{call, call + "at"}, Action: specs.ActErrno, ErrnoRet: number}},
		}
		return nil
	}
}
