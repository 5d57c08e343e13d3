package hack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
		"packages/build":     {"packages/build $DIR $TMPDIR", map[string]string{"hack/packages/version": nothing, "go": nothing, "git": nothing, "make": fails}},
		"packages/checks": {"packages/checks $DIR $DIR", map[string]string{
			"id": "echo 0", "./containerd-shim-msb_.deb": nothing, "./containerd-shim-msb-.rpm": nothing,
			"./containerd-shim-msb-.tar.gz": nothing, "./containerd-shim-msb-.spdx.json": nothing,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lanes{t, t.TempDir()}
			l.write("signaller", signaller)
			for stub, does := range script.stubs {
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
			last, made := 0, 0 // commands: the script's last, and the first when it has made something
			for {
				had := l.interrupted(script.command, last+1, never)
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
			for len(l.interrupted(script.command, made, second)) == 2 {
				second++
			}
			t.Logf("a signal at each of %d commands; after one at command %d, a second at each of %d", last, made, second-made-1)
			if second-made-1 < 3 {
				t.Error("these are too few for a clean-up")
			}
		})
	}
}

// never is the number of a command that no script has.
const never = 1_000_000

// interrupted runs a script of hack/ and sends it signals at two of its commands. For each of them that
// the script has come to, the result has what it had made.
func (l lanes) interrupted(command string, first, second int) []string {
	l.t.Helper()
	tmp, reached := filepath.Join(l.dir, "tmp"), filepath.Join(l.dir, "reached")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		l.t.Fatal(err)
	}
	l.write("reached", "")
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "BASH_ENV=$DIR/signaller exec $DIR/hack/"+command)
	cmd.Env = append(os.Environ(), "DIR="+l.dir, "TMPDIR="+tmp, "PATH="+filepath.Join(l.dir, "bin")+":"+os.Getenv("PATH"),
		"REACHED="+reached, fmt.Sprint("FIRST=", first), fmt.Sprint("SECOND=", second))
	said, _ := cmd.CombinedOutput()
	if ctx.Err() != nil {
		l.t.Fatalf("signals at commands %d and %d: it does not end: %s", first, second, said)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		l.t.Fatalf("signals at commands %d and %d: it left %v: %s", first, second, left, said)
	}
	sent, err := os.ReadFile(reached)
	if err != nil {
		l.t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(sent)))
}
