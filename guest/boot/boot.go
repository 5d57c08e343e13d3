// Package boot makes a running kernel with a read-only root into a place where
// containers can run: file systems, devices, control groups, loopback.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// mount is one file system of the guest.
type mount struct {
	kind, target string
	flags        uintptr
	data         string
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are made in this order. The targets below / are directories of the
// guest's image, the others are made.
var mounts = []mount{
	{"proc", "/proc", quiet, ""},
	{"sysfs", "/sys", quiet, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5"},
	{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", quiet, ""},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", cgroupRoot, quiet, "nsdelegate"},
}

// links are what udev or an init system would make in /dev.
var links = map[string]string{
	"/dev/fd":     "/proc/self/fd",
	"/dev/stdin":  "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2",
}

const (
	cgroupRoot = "/sys/fs/cgroup"
	// openFiles is the agent's own limit, which every container whose spec sets
	// none inherits, as it would inherit containerd's from its service unit.
	openFiles = 1 << 20
)

// Run prepares the guest. It is called once, by PID 1.
func Run() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		// The kernel may have mounted devtmpfs already.
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return errors.Join(fmt.Errorf("mounting %s on %s: %w", m.kind, m.target, err), checkKernel())
		}
	}
	if err := checkKernel(); err != nil {
		return err
	}
	if err := setParameters("/proc", Note); err != nil {
		return err
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := enableControllers(); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles, Max: openFiles}); err != nil {
		return fmt.Errorf("raising the limit of open files: %w", err)
	}
	if err := unix.Sethostname([]byte("msb")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	return loopbackUp()
}

// enableControllers hands every controller of the kernel down to the
// containers' groups (Documentation/admin-guide/cgroup-v2.rst).
func enableControllers() error {
	controllers, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(controllers)) {
		err := os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if err != nil {
			return fmt.Errorf("enabling the cgroup controller %s: %w", controller, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return nil
}

// Reap waits for every process whose parent is PID 1, the containers' inits
// among them, and hands their exits to containerd's reaper. It returns when ctx
// ends.
func Reap(ctx context.Context) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			if err := reaper.Reap(); err != nil {
				log.G(ctx).WithError(err).Error("reaping processes")
			}
		}
	}
}

// Note writes a line to the kernel's log, which dates it (Documentation/ABI/testing/dev-kmsg).
// A log that takes none is no reason not to boot.
func Note(line string) {
	_ = os.WriteFile("/dev/kmsg", []byte("<6>msb-agent: "+line+"\n"), 0)
}

// SetClock sets the time of day.
func SetClock(now time.Time) error {
	spec := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &spec); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// Seed adds random bytes, all of them unknown to others, to what the kernel makes its random
// numbers of.
func Seed(seed []byte) error {
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := rawcall.AddEntropy(int(device.Fd()), seed); err != nil {
		return fmt.Errorf("seeding the random numbers: %w", err)
	}
	return nil
}

// End ends the machine. A VMM that does not restart its guest takes a restart
// for its end; powering off needs firmware that a microVM lacks.
func End() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "msb-agent: restarting the machine:", err)
	}
}
