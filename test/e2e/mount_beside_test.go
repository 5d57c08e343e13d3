package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// bindAt is a configuration with a bind.
func bindAt(source, destination string) func(*specs.Spec) {
	return withMounts(specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rw"}})
}

func withMounts(mounts ...specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, mounts...) }
}

func withFilter(filter specs.LinuxSeccomp) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.Seccomp = &filter })
}

// placesBeside are configurations whose mounts are at places that are written otherwise, or that
// the runtime itself has a need of; a file and a directory are in dir.
func placesBeside(t *testing.T, dir string) []beside {
	t.Helper()
	file, below := filepath.Join(dir, "file"), filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{file: "by its text\n", filepath.Join(dir, "a", "file"): "by the link\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	tmpfs := func(destination string) func(*specs.Spec) {
		return withMounts(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: destination})
	}
	return []beside{
		{"places", func(s *specs.Spec) {
			for _, mount := range []func(*specs.Spec){
				bindAt(file, "/t/x/"), bindAt(file, "/t//y/../z/./x"), bindAt(below, "/n/o/"), bindAt(file, "/proc/cpuinfo"),
				bindAt(dir+"/link/../file", "/by-link"), tmpfs("/p/q"),
			} {
				mount(s)
			}
		}, "cat /t/x /t/z/x /proc/cpuinfo /by-link; stat -c '%n %a' /t /t/z /n /p"},
		{name: "a file as a directory", change: bindAt(file+"/", "/x")},
		{name: "over /dev/null", change: bindAt(file, "/dev/null")},
		{name: "over /dev/ptmx", change: bindAt(file, "/dev/ptmx")},
		{name: "in proc", change: bindAt(file, "/proc/version")},
		{name: "a directory of proc", change: bindAt("/proc/sys", "/proc/sys")},
		{name: "a directory as proc", change: bindAt(dir, "/proc")},
		{name: "a tmpfs as proc", change: tmpfs("/proc")},
		{"a filter that says nothing", withFilter(specs.LinuxSeccomp{}), "mkdir /made"},
		{"a rule for no call", withFilter(specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Action: specs.ActErrno}, {Names: []string{"mkdir"}, Action: specs.ActErrno}},
		}), "mkdir /made"},
		{
			"no limits", ofLinux(func(l *specs.Linux) { l.Resources = nil }),
			"mknod /kmsg c 1 11 && head -c 1 /kmsg; head -c 1 /dev/zero | wc -c",
		},
		{"files without content", withLimit("RLIMIT_FSIZE", 0, 0), "sh -c 'echo x >/made'; echo $?; wc -c </made"},
	}
}

// endBeside ends a container before its start. The exit code is each runtime's.
func endBeside(t *testing.T, side side, seen map[string]string) {
	t.Helper()
	c := create(t, options{spec: []oci.SpecOpts{side.member()}, container: side.container}, sleeper...)
	if err := c.Kill(c.ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if ended(t, c.exit).ExitCode() == 0 {
		t.Error("a container that was ended before its start has succeeded")
	}
	seen["ended before its start"] = "ended"
}
