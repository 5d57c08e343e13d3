package hack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// signaller is what bash reads before a script (BASH_ENV). Before each of the script's commands, those
// of its traps too, bash expands PS4: this one counts them, and sends the script a signal while two of
// them run, FIRST and SECOND. REACHED has a line for each, which says what the script has made.
const signaller = `unset BASH_ENV
commands=0 signals=([FIRST]=TERM [SECOND]=HUP)
PS4='+ ${signals[BASHPID == $$ ? ++commands : 0]:+$(echo $(ls -A "$TMPDIR"). >>"$REACHED"; kill -"${signals[commands]}" $$)}'
set -x
`

// childSignaller sends a signal when the script has started a child in the background, as its CHILDth,
// before it can note which that is. A trap of DEBUG runs before a command, and in it the one of the signal.
const childSignaller = `unset BASH_ENV
started=0 newest=
trap '[[ $BASHPID != "$$" || ${!-} == "$newest" ]] || { newest=$!; ((++started != CHILD)) || { echo . >>"$REACHED"; kill $$; :; }; }' DEBUG
set -T
`

// Scripts take away what they have made whichever of their commands a signal comes at, and a second
// one while they do.
func TestScriptsInterrupted(t *testing.T) {
	const nothing, fails = "", "exit 1"
	for name, script := range map[string]struct {
		command string
		// stubs are found in PATH, or beside the script where they have a directory.
		stubs map[string]string
	}{
		"kvmhost":            {"kvmhost true", map[string]string{"hack/deps": nothing, "hack/step": nothing, "apt-get": nothing, "apt-cache": nothing}},
		"lanes":              {"lanes test-a", map[string]string{"go": fails}},
		"containerd-private": {"containerd-private true", map[string]string{"hack/need-root": nothing, "containerd": fails, "ctr": fails, "pgrep": nothing}},
		"kubernetes":         {"kubernetes true", map[string]string{"hack/need-root": nothing, "awk": nothing, "unshare": fails}},
		"docker":             {"docker $TMPDIR/docker", map[string]string{"apt-get": nothing, "hack/debian": `mkdir "$4"; exit 1`}},
		"guest-image": {"guest-image agent crun $TMPDIR/image", map[string]string{
			"id": "echo 0", "install": nothing, "mknod": nothing, "mkfs.erofs": `touch "${@: -2:1}"; exit 1`,
		}},
		"nerdctl":             {"nerdctl $DIR/nerdctl", map[string]string{"go": nothing}},
		"containerd-release":  {"containerd-release 2.3 $DIR/containerd", map[string]string{"go": nothing}},
		"microsandbox":        {"microsandbox $DIR/microsandbox", map[string]string{"hack/deps": nothing, "hack/step": fails}},
		"libkrunfw":           {"libkrunfw $DIR/libkrunfw $DIR/origin", map[string]string{"ldconfig": nothing, "hack/deps": nothing, "hack/step": fails}},
		"busybox-conformance": {"busybox-conformance $DIR/busybox", map[string]string{"busybox": nothing, "apt-get": nothing, "apt-cache": nothing, "hack/deps": nothing, "hack/step": fails}},
		"packages/build":      {"packages/build $DIR $TMPDIR", map[string]string{"hack/packages/version": nothing, "go": nothing, "git": nothing, "make": fails}},
		"packages/checks": {"packages/checks $DIR $DIR", map[string]string{
			"id": "echo 0", "./containerd-shim-msb_.deb": nothing, "./containerd-shim-msb-.rpm": nothing,
			"./containerd-shim-msb-.tar.gz": nothing, "./containerd-shim-msb-.spdx.json": nothing,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newScript(t, name, script.stubs)
			l.write("signaller", signaller)
			last, made := 0, 0 // commands: the script's last, and the first when it has made something
			for {
				had := l.interrupted(script.command, "FIRST", last+1, "SECOND", never)
				if len(had) == 0 {
					break
				}
				last++
				if made == 0 && had[0] != ".\n" {
					made = last
				}
			}
			if made == 0 {
				t.Fatalf("none of its %d commands has made anything in TMPDIR", last)
			}
			second := made + 1
			for len(l.interrupted(script.command, "FIRST", made, "SECOND", second)) == 2 {
				second++
			}
			t.Logf("a signal at each of %d commands; after one at command %d, a second at each of %d", last, made, second-made-1)
			if second-made-1 < 3 {
				t.Error("these are too few for a clean-up")
			}
		})
	}
}

// Scripts end what they have started in the background also where a signal comes before they have noted
// which process that is.
func TestScriptsInterruptedBesideChild(t *testing.T) {
	const nothing, goesOn = "", "exec sleep 1000"
	for name, script := range map[string]struct {
		command  string
		stubs    map[string]string
		children int
	}{
		"kvmhost": {"kvmhost true", map[string]string{
			"hack/deps": nothing, "_output/cache/kvmhost/kernel/ready": nothing, "_output/cache/kvmhost/kernel/lib/modules/1/modules.dep": nothing,
			"busybox": "exec cat >/dev/null", "cp": nothing, "ldconfig": nothing, "ldd": nothing, "mke2fs": nothing, "qemu-system-x86_64": goesOn,
		}, 1},
		"lanes": {"lanes test-a test-b", map[string]string{"make": goesOn, "go": `ln -s "$(type -P true)" "${@: -2:1}"`, "hoststate": nothing, "nproc": "echo 1", "mv": nothing, "cp": nothing}, 2},
		"containerd-private": {"containerd-private true", map[string]string{
			"hack/need-root": nothing, "containerd": goesOn, "ctr": nothing, "pgrep": nothing,
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newScript(t, name, script.stubs)
			l.write("signaller", childSignaller)
			for child := range script.children {
				if len(l.interrupted(script.command, "CHILD", child+1)) == 0 {
					t.Fatalf("it starts %d children, want %d", child, script.children)
				}
				if left := l.endProcesses(); len(left) > 0 {
					t.Fatalf("it left running, when its child %d had started: %q", child+1, left)
				}
			}
		})
	}
}

// newScript is a script of hack/ among stubs, which are found in PATH, or beside the script where they
// have a directory.
func newScript(t *testing.T, name string, stubs map[string]string) lanes {
	t.Helper()
	l := lanes{t, t.TempDir()}
	t.Cleanup(func() { l.endProcesses() })
	for stub, does := range stubs {
		if filepath.Base(stub) == stub {
			stub = filepath.Join("bin", stub)
		}
		l.write(stub, "#!/bin/bash\n"+does)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	l.write(filepath.Join("hack", name), string(text))
	return l
}

// never is the number of a command that no script has.
const never = 1_000_000

// interrupted runs a script of hack/, and the signaller sends it signals at what the variables name. For
// each of them that the script has come to, the result has what it had made.
func (l lanes) interrupted(command string, variables ...any) []string {
	l.t.Helper()
	tmp, reached, said := filepath.Join(l.dir, "tmp"), filepath.Join(l.dir, "reached"), filepath.Join(l.dir, "said")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.write("reached", "")
	// A pipe would be waited for as long as a process that is left has it.
	output, err := os.Create(said)
	if err != nil {
		l.t.Fatal(err)
	}
	defer output.Close()
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "BASH_ENV=$DIR/signaller exec $DIR/hack/"+command)
	cmd.Env = append(os.Environ(), "DIR="+l.dir, "TMPDIR="+tmp, "PATH="+filepath.Join(l.dir, "bin")+":"+os.Getenv("PATH"), "REACHED="+reached)
	for pair := range slices.Chunk(variables, 2) {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%v=%v", pair...))
	}
	cmd.Stdout, cmd.Stderr = output, output
	_ = cmd.Run() // a signal ends it
	text, _ := os.ReadFile(said)
	if ctx.Err() != nil {
		l.t.Fatalf("signals at %v: it does not end: %s", variables, text)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		l.t.Fatalf("signals at %v: it left %v: %s", variables, left, text)
	}
	sent, err := os.ReadFile(reached)
	if err != nil {
		l.t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(sent)))
}

// endProcesses ends what a script has left running, and returns it. It has the script's environment.
func (l lanes) endProcesses() (ended []string) {
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		environment, _ := os.ReadFile(path) // nothing of one that has ended
		if !slices.Contains(strings.Split(string(environment), "\x00"), "DIR="+l.dir) {
			continue
		}
		dir := filepath.Dir(path)
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			ended = append(ended, strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")))
		}
	}
	return ended
}
