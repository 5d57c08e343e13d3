package client

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// The suite starts a containerd in places of its own choice and leaves things behind
// when it fails. So it gets a world: namespaces for its mounts, its processes and its
// network, in which this program is process 1. Whatever is in it ends with it.

// worldEnv marks the environment of process 1. Its value is the world's directory.
const worldEnv = "MSB_CLIENT_WORLD"

// newWorld is a command that runs the suite in a new world, whose files are in dir.
func newWorld(output, dir, runtime string, arguments ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{filepath.Join(output, "tools", "client.test")}, arguments...)...)
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	// Some tests are about runc: they skip themselves for any other flavour of it.
	flavour := strings.TrimSuffix(strings.TrimPrefix(runtime, "io.containerd."), ".v2")
	cmd.Env = append(cmd.Env, worldEnv+"="+dir, "MSB_OUTPUT="+output, "TEST_RUNTIME="+runtime, "RUNC_FLAVOR="+flavour,
		"PATH="+strings.Join([]string{filepath.Join(output, "bin"), filepath.Join(output, "tools"), os.Getenv("PATH")}, ":"))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// live is process 1's life: it runs the suite and returns its exit code.
func live(dir string, suite []string) (code int, err error) {
	if err := errors.Join(makeMounts(dir), loopbackUp()); err != nil {
		return 1, err
	}
	environment, err := serveImages(filepath.Join(os.Getenv("MSB_OUTPUT"), "images", "client"), dir)
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(suite[0], suite[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// Tests make sockets there, whose names cannot be long.
	temporary := filepath.Join(dir, "t")
	if err := os.Mkdir(temporary, 0o711); err != nil {
		return 1, err
	}
	cmd.Env = append(append(os.Environ(), "TMPDIR="+temporary), environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	code, err = reap(cmd.Process.Pid)
	for _, process := range remaining(10 * time.Second) {
		fmt.Fprintln(os.Stderr, leftMark+process)
	}
	return code, err
}

// remaining are the others that do not end in a time: a shim ends after its container.
func remaining(patience time.Duration) (all []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if all = others(); len(all) == 0 || time.Now().After(deadline) {
			return all
		}
	}
}

// leftMark begins a line about a process that the suite left behind.
const leftMark = "left behind: "

// others are the command lines of the world's processes but this one.
func others() (all []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && file != "/proc/1/cmdline" && len(line) > 0 {
			all = append(all, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		}
	}
	return all
}

// reap is what every process 1 owes its world, until one process ends.
func reap(pid int) (code int, err error) {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, os.NewSyscallError("wait4", err)
		case ended == pid && status.Signaled():
			return 1, fmt.Errorf("the suite died: %s", status.Signal())
		case ended == pid:
			return status.ExitStatus(), nil
		}
	}
}

// makeMounts gives the world its own /proc, /run and /var/lib, and an /etc with a
// configuration of the runtime. The host's mounts still arrive; its own stay inside,
// where shims get them from containerd.
func makeMounts(dir string) error {
	upper, work, lib := "/run/etc", "/run/etc.work", filepath.Join(dir, "lib")
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
		func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		},
		func() error { return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755") },
		func() error { return os.Mkdir(lib, 0o711) },
		func() error { return unix.Mount(lib, "/var/lib", "", unix.MS_BIND, "") },
		func() error { return errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)) },
		func() error {
			return unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work)
		},
		writeConfig,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("making the world's mounts: %w", err)
		}
	}
	return nil
}

func writeConfig() error {
	if err := os.MkdirAll(filepath.Dir(config.Path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(config.Path, fmt.Appendf(nil, "driver = %q\n", cmp.Or(os.Getenv("MSB_DRIVER"), "qemu")), 0o600)
}

func loopbackUp() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}
