package hostile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// payloadArgument makes this test's program the payload.
const payloadArgument = "hostile-payload"

// insideVariable is set in the process that runs the tests.
const insideVariable = "MSB_HOSTILE_INSIDE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == payloadArgument {
		if err := payload(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(insideVariable) != "" || os.Geteuid() != 0 {
		os.Exit(inside(m))
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "running the tests in namespaces of their own:", err)
		code = 1
	}
	os.Exit(code)
}

// dirPattern is that of the directory of a run, in the temporary folder.
const dirPattern = "msb-h-*"

// outside runs this program again in namespaces of its own: what it mounts and the memory that it
// shares go with its last process, however that ends. Its files are in a directory, and this process,
// which has that locked for as long as it lives, removes it.
func outside() (code int, err error) {
	// Before there is anything to be left.
	received := make(chan os.Signal, 1)
	signal.Notify(received, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	signal.Ignore(unix.SIGPIPE) // a Ctrl-C ends who reads what is printed first
	sweep()
	dir, lock, err := makeDir()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, harness.Remove(dir), lock.Close()) }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1", "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts it
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range received {
			_ = cmd.Process.Signal(s)
		}
	}()
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// inside runs the tests. What they mount does not come to the host.
func inside(m *testing.M) int {
	if os.Geteuid() == 0 {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "a mount namespace of the tests' own:", err)
			return 1
		}
	}
	return m.Run()
}

// makeDir makes a directory that this process has locked.
func makeDir() (dir string, lock *os.File, err error) {
	for {
		if dir, err = os.MkdirTemp("", dirPattern); err != nil {
			return "", nil, err
		}
		if lock = lockDir(dir); lock != nil {
			return dir, lock, os.Chmod(dir, 0o755) // users are among the intruders
		}
	}
}

// lockDir locks a directory; nil if another has it, or takes it away.
func lockDir(dir string) *os.File {
	lock, err := os.Open(dir)
	if err != nil {
		return nil
	}
	var stat unix.Stat_t
	err = errors.Join(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.Fstat(int(lock.Fd()), &stat))
	if err != nil || stat.Nlink == 0 {
		lock.Close()
		return nil
	}
	return lock
}

// sweep removes the directories of runs that were killed, and names them.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPattern))
	for _, dir := range dirs {
		if lock := lockDir(dir); lock != nil {
			fmt.Fprintf(os.Stderr, "tests that were killed had left %s: removed (%v)\n", dir, harness.Remove(dir))
			lock.Close()
		}
	}
}
