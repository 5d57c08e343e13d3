package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// withShell makes a container in whose guest the operator may run programs.
func withShell(t *testing.T) func(id string, image client.Image) []client.NewContainerOpts {
	t.Helper()
	config, err := os.ReadFile(host.Config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	write(t, file, string(config)+"\n[debug]\nshell = true\n")
	return func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{client.WithNewSnapshot(id, image), client.WithRuntime(harness.Runtime, &runtimeoptions.Options{ConfigPath: file})}
	}
}

// checkShell wants programs of the host to run beside the agent of a guest where the configuration
// allows it, and nothing of that to be left.
func checkShell(t *testing.T, state []string, refused, allowed *task) {
	t.Helper()
	tools := filepath.Join(host.Output, "tools")
	shell := func(k *task, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		return msbctl(t, append(append(append([]string{"shell", k.ID()}, state...), "--tools", tools, "--"), args...)...)
	}
	if _, stderr, code := shell(refused, "probe", "stat", "/sbin/msb-agent"); code != 1 || !strings.Contains(stderr, "[debug] shell = true") {
		t.Errorf("shell without the setting: code %d, %q", code, stderr)
	}
	if stdout, stderr, code := shell(allowed, "probe", "stat", "/sbin/msb-agent"); code != 0 || stdout == "" {
		t.Errorf("shell: code %d, %q, %q", code, stdout, stderr)
	}
	if stdout, stderr, code := shell(allowed, "probe", "stat", "/no/such/file"); code != 1 || stdout != "ENOENT\n" || stderr != "" {
		t.Errorf("shell of a program that fails: code %d, %q, %q", code, stdout, stderr)
	}
	if _, stderr, code := shell(allowed, "no-program"); code != 1 || !strings.Contains(stderr, "no such file") {
		t.Errorf("shell of no program: code %d, %q", code, stderr)
	}
	checkTerminal(t, append([]string{"shell", allowed.ID()}, state...))
	allowed.mustFail("stat /sbin/msb-agent", "")
	stdout, _, _ := msbctl(t, append([]string{"log", allowed.ID()}, state...)...)
	if strings.Count(stdout, "runs a program in the guest") != 4 || !strings.Contains(stdout, "has ended with status 1") {
		t.Errorf("the log tells of it: %s", stdout)
	}
	var s listed
	if msbctlJSON(t, &s, append([]string{"inspect", allowed.ID()}, state...)...); len(s.Shares) != 1 {
		t.Errorf("shares are left: %+v", s.Shares)
	}
}

// checkTerminal wants a shell in the guest to have a terminal, before which msbctl sits in one of the
// host's.
func checkTerminal(t *testing.T, args []string) {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	resize := func(rows, columns uint16) {
		if err := master.Resize(console.WinSize{Height: rows, Width: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(30, 100)
	var mu sync.Mutex
	var shown strings.Builder
	text := func() string {
		mu.Lock()
		defer mu.Unlock()
		return shown.String()
	}
	go func() {
		part := make([]byte, 4096)
		for {
			n, err := master.Read(part)
			if err != nil {
				return
			}
			mu.Lock()
			shown.Write(part[:n])
			mu.Unlock()
		}
	}()
	tools := t.TempDir()
	path, err = exec.LookPath("busybox") // the one that the image has
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(tools, "busybox"), busybox, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(host.Output, "bin", "msbctl"), append(args, "--tools", tools, "--", "busybox", "sh", "-i")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(harness.Patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	// What is typed is also shown, but not as the shell makes it.
	await := func(keys, want string) {
		t.Helper()
		before := len(text())
		if _, err := io.WriteString(master, keys); err != nil {
			t.Fatal(err)
		}
		waitFor(t, fmt.Sprintf("the terminal to show %q", want), func() bool { return strings.Contains(text()[before:], want) })
	}
	await("a=one; echo $a-$((1+1)) $TERM\r", "one-2 xterm")
	await("$TOOLS/busybox tty; $TOOLS/busybox stty size\r", "/dev/pts/")
	waitFor(t, "the terminal's size", func() bool { return strings.Contains(text(), "30 100\r\n") })
	resize(31, 101)
	await("until $TOOLS/busybox stty size | $TOOLS/busybox grep '31 101'; do $TOOLS/busybox sleep 0.1; done\r", "31 101\r\n")
	// The program says itself that it runs: an interactive shell that is interrupted before it has put
	// its child in front keeps the signal to itself, and waits for the child.
	await("$TOOLS/busybox sh -c 'echo sleeps$((1+1)); exec $TOOLS/busybox sleep 100000'\r", "sleeps2")
	await("\x03echo ended-$?\r", "ended-130")
	await("$TOOLS/busybox printf '\\033]0;title\\007t%sext' h\r", "thext")
	if strings.Contains(text(), "\x1b]") {
		t.Errorf("the terminal is shown a title: %q", text())
	}
	if _, err := io.WriteString(master, "exit 5\r"); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exit code %d: %q", cmd.ProcessState.ExitCode(), text())
	}
}
