package hack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Lanes are run by a make that does what a file of the lane's name says, and with a hoststate
// that finds a difference if there is a file "changed".
type lanes struct {
	t   *testing.T
	dir string
}

func newLanes(t *testing.T, scripts map[string]string) lanes {
	l := lanes{t, t.TempDir()}
	l.write("bin/make", `#!/bin/bash
echo "begin $1" >>"$DIR/order"
. "$DIR/$1"
echo "end $1" >>"$DIR/order"
`)
	// What go builds here is hoststate, and its last argument but one is where.
	l.write("bin/go", `#!/bin/bash
cp "$DIR/hoststate" "${@: -2:1}"
`)
	l.write("hoststate", `#!/bin/bash
case $1 in
save) touch "$2" ;;
compare) if [[ -e $DIR/changed ]]; then echo "the host is not as it was"; rm "$DIR/changed"; exit 1; fi ;;
esac
`)
	for name, script := range scripts {
		l.write(name, script)
	}
	return l
}

func (l lanes) write(name, content string) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		l.t.Fatal(err)
	}
}

// command is hack/lanes with arguments, which has five minutes. Its temporary files are in a
// directory "tmp".
func (l lanes) command(atOnce int, arguments string) *exec.Cmd {
	l.t.Helper()
	tmp := filepath.Join(l.dir, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Minute)
	l.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "./lanes", strings.Fields(arguments)...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), "DIR="+l.dir, "TMPDIR="+tmp, fmt.Sprint("MSB_LANES=", atOnce),
		"PATH="+filepath.Join(l.dir, "bin")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs lanes, and returns what was printed, and whether all have passed.
func (l lanes) run(atOnce int, arguments string) (string, bool) {
	l.t.Helper()
	said, err := l.command(atOnce, arguments).CombinedOutput()
	if left, _ := filepath.Glob(filepath.Join(l.dir, "tmp/*")); len(left) > 0 {
		l.t.Error("it left ", left)
	}
	return string(said), err == nil
}

// order is how lanes have begun and ended.
func (l lanes) order() string {
	order, _ := os.ReadFile(filepath.Join(l.dir, "order"))
	return strings.Join(strings.Split(strings.TrimSpace(string(order)), "\n"), ", ")
}

// wants fails the test if one of some regular expressions matches no line.
func wants(t *testing.T, said string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !regexp.MustCompile("(?m)^" + line + "$").MatchString(said) {
			t.Errorf("no line is %q in:\n%s", line, said)
		}
	}
}

// until is a script that waits for a file, which others make.
const until = `until [[ -e $DIR/%s ]]; do sleep 0.05; done; `

func waits(file string) string { return fmt.Sprintf(until, file) }

func makes(file string) string { return fmt.Sprintf("touch $DIR/%s; ", file) }

func TestLanesOneAfterTheOther(t *testing.T) {
	l := newLanes(t, map[string]string{
		"parts": "echo built", "build": "", "test-a": "echo '--- PASS: TestA'; echo '    --- SKIP: TestA/b'", "test-b": "", "lint": "", "test-last": "",
	})
	said, passed := l.run(1, "parts then build then test-a test-b meanwhile lint at-last test-last")
	if !passed {
		t.Error("it has failed")
	}
	want := "begin parts, end parts, begin build, end build, begin test-a, end test-a, begin test-b, end test-b, begin lint, end lint, begin test-last, end test-last"
	if got := l.order(); got != want {
		t.Errorf("the order is\n%s, want\n%s", got, want)
	}
	wants(t, said, "built", `    test-a +passed +1 +0 +1 +0:\d\d`, `    host +passed .*`, `    test-last +passed .*`)
}

// A lane of the second phase needs all of the first; what needs none begins when nothing else can,
// and the next phase does not wait for it.
func TestLanesAtOnce(t *testing.T) {
	l := newLanes(t, map[string]string{
		"parts":     waits("meanwhile"),
		"kernel":    "",
		"test-a":    makes("a") + waits("b"),
		"test-b":    makes("b") + waits("a"),
		"test-unit": makes("meanwhile") + waits("a") + waits("b") + "echo all the rest",
	})
	said, passed := l.run(3, "parts kernel then test-a test-b meanwhile test-unit")
	if !passed {
		t.Error("it has failed")
	}
	wants(t, said, "all the rest", "    test-unit +passed .*")
	if order := l.order(); strings.Index(order, "begin test-a") < strings.Index(order, "end parts") ||
		strings.Index(order, "end test-unit") < strings.Index(order, "begin test-b") {
		t.Error("the order is", order)
	}
}

// Where a part is not built, nothing runs that needs it, and the other lanes do.
func TestLanesNotBuilt(t *testing.T) {
	l := newLanes(t, map[string]string{"parts": "exit 1", "kernel": "", "test-a": "", "test-unit": "", "test-last": ""})
	said, passed := l.run(2, "parts kernel then test-a meanwhile test-unit at-last test-last")
	if passed {
		t.Error("it has passed")
	}
	wants(t, said, "    parts +FAILED .*", "    kernel +passed .*", "    test-a +not_run .*", "    test-unit +passed .*", "    test-last +not_run .*")
	if order := l.order(); strings.Contains(order, "test-a") || strings.Contains(order, "test-last") {
		t.Error("the order is", order)
	}
}

// All run to their end when a test has failed, and it is told at once, also of a lane that runs
// beside the first: each of the two waits for what the other says.
func TestLanesFailed(t *testing.T) {
	l := newLanes(t, map[string]string{
		"test-a": "echo '    --- FAIL: TestA/c (1.00s)'; echo 'the reason of a'; " + waits("told") + "exit 1",
		"test-b": "echo '    --- FAIL: TestB/c (1.00s)'; echo 'the reason of b'; " + waits("told") + "exit 1",
		"test-c": "",
	})
	cmd := l.command(2, "test-a test-b test-c")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for buffer := make([]byte, 4096); ; {
		n, err := out.Read(buffer)
		said.Write(buffer[:n])
		if told(said.String(), "TestA/c") && told(said.String(), "TestB/c") {
			l.write("told", "")
		}
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it has passed")
	}
	wants(t, said.String(), "the reason of a", "the reason of b", "    test-a +FAILED +0 +1 .*", "    test-b +FAILED +0 +1 .*", "    test-c +passed .*")
}

// told tells whether it was said that a test has failed.
func told(said, test string) bool {
	return regexp.MustCompile("(?m)(FAIL|failed): " + test).MatchString(said)
}

// A lane that has changed the host has failed.
func TestLanesChangedHost(t *testing.T) {
	l := newLanes(t, map[string]string{"test-a": makes("changed"), "test-b": ""})
	said, passed := l.run(1, "test-a test-b")
	if passed {
		t.Error("it has passed")
	}
	wants(t, said, "the host is not as it was", "    test-a +FAILED .*", "    test-b +passed .*", "    host +passed .*")
}

// A lane whose worker was killed has failed, and nobody waits for it.
func TestLanesKilled(t *testing.T) {
	killed := "if mkdir $DIR/killed; then kill -KILL 0; fi; "
	l := newLanes(t, map[string]string{"test-a": killed, "test-b": killed, "test-c": ""})
	said, passed := l.run(2, "test-a test-b then test-c")
	if passed {
		t.Error("it has passed")
	}
	wants(t, said, "    test-[ab] +FAILED .*", "    test-[ab] +passed .*", "    test-c +passed .*")
}

// A signal ends all that runs, and nothing is left, also where a second one comes while they end.
func TestLanesInterrupted(t *testing.T) {
	ends := "trap 'touch $DIR/ending.$1; sleep 1; exit 1' TERM; echo $$ >$DIR/pid.$1; sleep 1000 & wait"
	l := newLanes(t, map[string]string{"test-a": ends, "test-b": ends})
	cmd := l.command(2, "test-a test-b")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Minute)
	await := func(kind string) {
		t.Helper()
		for _, lane := range []string{"test-a", "test-b"} {
			for {
				if _, err := os.Stat(filepath.Join(l.dir, kind+"."+lane)); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("there is no %s of %s", kind, lane)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	await("pid")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		await("ending")
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
		t.Error("it has ended with", err)
	}
	for _, lane := range []string{"test-a", "test-b"} {
		pid, err := os.ReadFile(filepath.Join(l.dir, "pid."+lane))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
			t.Errorf("%s runs on", lane)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(l.dir, "tmp/*")); len(left) > 0 {
		t.Error("it left ", left)
	}
}
