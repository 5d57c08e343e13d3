package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is for TestMain: it starts containerd, runs tests on it, and ends it. If they
// failed it shows errors and consoles of the log. The result is the exit code. All of it
// is in a mount namespace of its own, where the directories are empty that every
// containerd has its shims' sockets, its clients' FIFOs and the runtime's spares in.
func Main(run func(*Host) int, options ...Option) (code int) {
	if os.Getenv(Private) == "" {
		return runPrivate()
	}
	if err := hideContainerd(); err != nil {
		fmt.Fprintln(os.Stderr, "taking directories of containerd from sight:", err)
		return 1
	}
	abortOnSignal()
	host, err := Start(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting containerd:", err)
		return 1
	}
	defer func() {
		if code != 0 {
			host.showLog()
		}
		host.tellSpares()
		if err := host.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "ending containerd:", err)
			code = 1
		}
	}()
	return run(host)
}

// Private is the environment variable that has the host's mount namespace in the process
// that runs tests, which is in one of its own.
const Private = "MSB_TEST_HOST_MOUNTS"

// hostMounts is the host's mount namespace, as the link in /proc names it.
func hostMounts() string {
	if host := os.Getenv(Private); host != "" {
		return host
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	return own
}

// runPrivate runs this program again in a mount namespace of its own, and returns its exit
// code. Signals that would end it go there.
func runPrivate() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), Private+"="+hostMounts())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	received := make(chan os.Signal, 1)
	signal.Notify(received, ending...)
	outliveOutput()
	// Pdeathsig is about the thread that starts it.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "running the tests in a mount namespace of their own:", err)
		return 1
	}
	go func() {
		for s := range received {
			_ = cmd.Process.Signal(s)
		}
	}()
	_ = cmd.Wait() // the exit code says it
	return cmd.ProcessState.ExitCode()
}

// outliveOutput lets this process go on when nobody reads what it prints any more: a
// Ctrl-C ends the reader first.
func outliveOutput() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// ending are the signals by which somebody ends the tests.
var ending = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP}

// abortOnSignal ends the tests at a signal, and all that they have started.
func abortOnSignal() {
	outliveOutput()
	received := make(chan os.Signal, 1)
	signal.Notify(received, ending...)
	go func() {
		fmt.Fprintln(os.Stderr, <-received, "received: ending what the tests have started")
		started.abort()
		os.Exit(1)
	}()
}

// hideContainerd mounts empty directories over those of every containerd, and of CNI's
// plugins. What the tests mount does not come to the host.
func hideContainerd() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	for _, dir := range []string{"/run/containerd", "/var/lib/cni", spareRun} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=711"); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	return nil
}

// useByDefault makes a configuration the one that the shim looks for itself, in the mount
// namespace of the tests: the host gets none.
func useByDefault(content []byte) error {
	if os.Getenv(Private) == "" {
		return nil
	}
	const dir, upper, work = "/etc/msb", "/run/containerd/etc", "/run/containerd/etc.work"
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		options := fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s", upper, work)
		if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755), unix.Mount("overlay", "/etc", "overlay", 0, options), os.Mkdir(dir, 0o755)); err != nil {
			return fmt.Errorf("a directory %s of the tests' own: %w", dir, err)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.WriteFile(filepath.Join(dir, "config.toml"), content, 0o600)
}

func (h *Host) showLog() {
	fmt.Fprintln(os.Stderr, "--- containerd's log, errors and consoles:")
	for line := range strings.Lines(h.Log()) {
		if strings.Contains(line, "level=error") || strings.Contains(line, "source=console") {
			fmt.Fprint(os.Stderr, line)
		}
	}
}

// NothingLeft fails the test if, at its end, something is there that was not at its
// start.
func (h *Host) NothingLeft(t T) {
	t.Helper()
	h.SettleSpares()
	before := h.Leftovers()
	t.Cleanup(func() {
		if left := h.New(before); len(left) > 0 {
			t.Fatal("left behind:\n" + strings.Join(left, "\n"))
		}
	})
}
