package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An option is one of the kernel's configuration that the guest or crun cannot do without,
// and what shows that it is on.
type option struct {
	name string
	// One of these: a line of /proc/filesystems, a controller of the control groups, or a file.
	fileSystem, controller, file string
}

// options are those that hack/kernel/config has for the guest itself. What one needs before
// it can say anything, a console and the root's file system, is not among them.
var options = []option{
	{name: "CONFIG_SYSFS", fileSystem: "sysfs"},
	{name: "CONFIG_DEVTMPFS", fileSystem: "devtmpfs"},
	{name: "CONFIG_UNIX98_PTYS", fileSystem: "devpts"},
	{name: "CONFIG_TMPFS", fileSystem: "tmpfs"},
	{name: "CONFIG_POSIX_MQUEUE", fileSystem: "mqueue"},
	{name: "CONFIG_VIRTIO_FS", fileSystem: "virtiofs"},
	{name: "CONFIG_OVERLAY_FS", fileSystem: "overlay"},
	{name: "CONFIG_CGROUPS", fileSystem: "cgroup2"},
	{name: "CONFIG_MEMCG", controller: "memory"},
	{name: "CONFIG_CGROUP_SCHED", controller: "cpu"},
	{name: "CONFIG_CPUSETS", controller: "cpuset"},
	{name: "CONFIG_BLK_CGROUP", controller: "io"},
	{name: "CONFIG_CGROUP_PIDS", controller: "pids"},
	{name: "CONFIG_USER_NS", file: "/proc/self/ns/user"},
	{name: "CONFIG_PID_NS", file: "/proc/self/ns/pid"},
	{name: "CONFIG_NET_NS", file: "/proc/self/ns/net"},
	{name: "CONFIG_IPC_NS", file: "/proc/self/ns/ipc"},
	{name: "CONFIG_UTS_NS", file: "/proc/self/ns/uts"},
	{name: "CONFIG_SECCOMP_FILTER", file: "/proc/sys/kernel/seccomp/actions_avail"},
	{name: "CONFIG_BPF_SYSCALL", file: "/proc/sys/kernel/unprivileged_bpf_disabled"}, // crun's rules of devices
}

// checkKernel refuses a kernel that lacks an option, by the names of all that are missing,
// as far as the file systems of the guest are mounted.
func checkKernel() error {
	missing, err := missing(os.DirFS("/"))
	if err != nil || len(missing) == 0 {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	return fmt.Errorf("this kernel (%s) lacks %s: build the guest's with them", unix.ByteSliceToString(name.Release[:]), strings.Join(missing, ", "))
}

// missing are the names of options that are off, as the files below root tell.
func missing(root fs.FS) (names []string, err error) {
	fileSystems, err := words(root, "proc/filesystems")
	if err != nil {
		return nil, err
	}
	controllers, err := words(root, "sys/fs/cgroup/cgroup.controllers")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Before control groups are mounted nothing is known of their controllers.
	unknown := err != nil && slices.Contains(fileSystems, "cgroup2")
	for _, option := range options {
		on := false
		switch {
		case option.fileSystem != "":
			on = slices.Contains(fileSystems, option.fileSystem)
		case option.controller != "":
			on = unknown || slices.Contains(controllers, option.controller)
		default:
			_, err := fs.Stat(root, strings.TrimPrefix(option.file, "/"))
			on = err == nil
		}
		if !on {
			names = append(names, option.name)
		}
	}
	return names, nil
}

// words are those of a file.
func words(root fs.FS, name string) ([]string, error) {
	data, err := fs.ReadFile(root, name)
	return strings.Fields(string(data)), err
}
