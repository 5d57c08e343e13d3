// Package pod makes what the containers of the guest share and none of them owns: a
// pod's shared memory and the files of its name and its resolver, and a process that
// holds namespaces for them.
package pod

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// A Pod is what there is so far. Its methods are called one at a time.
type Pod struct {
	holder int                // the process that holds the namespaces, or 0
	users  *api.UserNamespace // that it is in; nil is the guest's own
}

// Isolate gives the containers a user namespace, and a network namespace that belongs to
// it, whose path it returns: only there is the containers' root privileged
// (user_namespaces(7)).
func (p *Pod) Isolate(users *api.UserNamespace) (network string, err error) {
	if p.holder, err = startHolder(users); err != nil {
		return "", err
	}
	p.users = users
	place := api.UsersPath()
	if err := os.WriteFile(place, nil, 0o600); err != nil {
		return "", err
	}
	if err := unix.Mount(p.namespace("user"), place, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("keeping the user namespace at %s: %w", place, err)
	}
	return p.namespace("net"), nil
}

func (p *Pod) namespace(kind string) string { return api.NamespacePath(uint32(p.holder), kind) }

// root is who is root in the containers' user namespace.
func (p *Pod) root() (uid, gid int) {
	uid, _ = guestID(p.users.GetUids(), 0)
	gid, _ = guestID(p.users.GetGids(), 0)
	return uid, gid
}

// guestID is the guest's id of one in a user namespace, the same without mappings; false if
// it is not mapped.
func guestID(mappings []*api.IDMapping, id int) (int, bool) {
	for _, m := range mappings {
		if first := int(m.Container); id >= first && id < first+int(m.Size) {
			return int(m.Guest) + id - first, true
		}
	}
	return id, len(mappings) == 0
}

// Create makes what is asked for. It returns the process that holds the pod's
// namespaces, or 0.
func (p *Pod) Create(request *api.CreatePodRequest) (pid int, err error) {
	shm := api.PodPath(api.PodSharedMemory)
	if err := os.MkdirAll(filepath.Dir(shm), 0o711); err != nil {
		return 0, err
	}
	if err := os.Mkdir(shm, 0o755); err != nil {
		return 0, fmt.Errorf("the pod's shared memory: %w", err)
	}
	// As containerd's CRI plugin mounts it.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	uid, gid := p.root()
	if err := unix.Mount("shm", shm, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", request.SharedMemory, uid, gid)); err != nil {
		return 0, fmt.Errorf("mounting the pod's shared memory of %d bytes: %w", request.SharedMemory, err)
	}
	for _, file := range request.Files {
		if err := api.CheckName("file of the pod", file.Name); err != nil {
			return 0, err
		}
		path := api.PodPath(file.Name)
		if err := errors.Join(os.WriteFile(path, file.Content, 0o644), os.Chown(path, uid, gid)); err != nil {
			return 0, err
		}
	}
	if request.Namespaces == nil {
		return 0, nil
	}
	if p.holder == 0 {
		if p.holder, err = startHolder(nil); err != nil {
			return 0, err
		}
	}
	return p.holder, p.configure(request.Namespaces)
}

// configure sets the host name and the kernel parameters of the holder's namespaces.
func (p *Pod) configure(namespaces *api.PodNamespaces) error {
	return thread.Run(func() error {
		for _, kind := range []string{"ipc", "uts", "net"} {
			if err := enter(p.namespace(kind)); err != nil {
				return err
			}
		}
		if name := namespaces.Hostname; name != "" {
			if err := unix.Sethostname([]byte(name)); err != nil {
				return fmt.Errorf("setting the pod's host name %q: %v: %w", name, err, errdefs.ErrInvalidArgument)
			}
		}
		if err := BecomeRoot(p.root()); err != nil {
			return err
		}
		for name, value := range namespaces.Sysctls {
			if err := p.setSysctl(name, value); err != nil {
				return fmt.Errorf("%v: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		return nil
	})
}

// BecomeRoot gives this thread the ids of the containers' root, whose the parameters of IPC
// namespaces are to the kernel, and leaves it its capabilities, by which those of network
// namespaces are.
func BecomeRoot(uid, gid int) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"prctl(PR_SET_SECUREBITS)", func() error { return unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0) }},
		{"setresgid", func() error { return rawcall.SetThreadGroup(uint32(gid)) }},
		{"setresuid", func() error { return rawcall.SetThreadUser(uint32(uid)) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("becoming the containers' root: %w", os.NewSyscallError(step.name, err))
		}
	}
	return nil
}

// secbitNoSetuidFixup is SECBIT_NO_SETUID_FIXUP (capabilities(7)).
const secbitNoSetuidFixup = 1 << 2

// enter moves the thread into a namespace.
func enter(path string) error {
	namespace, err := os.Open(path)
	if err != nil {
		return err
	}
	defer namespace.Close()
	return os.NewSyscallError("setns", unix.Setns(int(namespace.Fd()), 0))
}

// startHolder starts Hold in namespaces of its own, and with a mapping also in a user
// namespace that owns them and a network of its own.
func startHolder(users *api.UserNamespace) (pid int, err error) {
	if err := os.MkdirAll(holderRoot, 0o755); err != nil {
		return 0, err
	}
	ready, report, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	cmd := exec.Command(api.Init, HoldCommand, lowly(users.GetUids()), lowly(users.GetGids()))
	cmd.ExtraFiles = []*os.File{report}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if users != nil {
		isolate(cmd.SysProcAttr, users)
	}
	err = thread.Run(func() error {
		if users == nil {
			if err := enter(api.NetworkPath()); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	report.Close()
	if err != nil {
		return 0, fmt.Errorf("starting the process that holds the containers' namespaces: %w", err)
	}
	// PID 1 reaps it, as every process.
	problem, err := io.ReadAll(ready)
	if err == nil && len(problem) > 0 {
		err = errors.New(string(problem))
	}
	if err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	score := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	return pid, os.WriteFile(score, []byte(oomScoreAdj), 0)
}

// lowly is an id in a user namespace with no rights to speak of: nobody's, or else the last.
func lowly(mappings []*api.IDMapping) string {
	const nobody = 65534
	id := nobody
	if _, ok := guestID(mappings, nobody); !ok {
		last := mappings[len(mappings)-1]
		id = int(last.Container + last.Size - 1)
	}
	return strconv.Itoa(id)
}

// isolate has a process start as root of a new user namespace.
func isolate(attributes *syscall.SysProcAttr, users *api.UserNamespace) {
	mappings := func(given []*api.IDMapping) (all []syscall.SysProcIDMap) {
		for _, m := range given {
			all = append(all, syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Guest), Size: int(m.Size)})
		}
		return all
	}
	attributes.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET
	attributes.UidMappings, attributes.GidMappings = mappings(users.Uids), mappings(users.Gids)
	attributes.GidMappingsEnableSetgroups = true
	attributes.Credential = &syscall.Credential{}
}

// oomScoreAdj is a sandbox container's in containerd's CRI plugin.
const oomScoreAdj = "-998"

// HoldCommand is the agent's first argument that makes it call Hold, with a user and a
// group after it.
const HoldCommand = "hold"

// reportFD is the descriptor on which Hold says what went wrong; it closes it when it
// is what it is to be.
const reportFD = 3

// Hold is the whole life of the process that holds namespaces. In its PID namespace it
// is the init: orphans become its children, and the kernel reaps them.
func Hold(uid, gid string) {
	report := os.NewFile(reportFD, "report")
	// An init whose containers signal it stays; and of ignored children the kernel
	// keeps nothing.
	signal.Ignore()
	if err := confine(uid, gid); err != nil {
		fmt.Fprint(report, err)
		os.Exit(1)
	}
	report.Close()
	for {
		_ = unix.Pause()
	}
}

// setSysctl sets a parameter of the namespaces that this thread is in.
func (p *Pod) setSysctl(name, value string) error {
	path := sysctlPath(name)
	if p.users != nil {
		var err error
		if value, err = p.seenByGuest(path, value); err != nil {
			return fmt.Errorf("setting the pod's kernel parameter %s: %w", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0); err != nil {
		return fmt.Errorf("setting the pod's kernel parameter %s to %q: %w", name, value, err)
	}
	return nil
}

// sysctlPath is a parameter's file below /proc/sys. Names have dots or slashes between
// their parts (sysctl(8)).
func sysctlPath(name string) string {
	if first := strings.IndexAny(name, "./"); first >= 0 && name[first] == '.' {
		name = strings.Map(swap, name)
	}
	return filepath.Clean("/" + name)
}

// seenByGuest is a parameter's value as this thread has to write it, which is in the guest's
// user namespace: groups are others there, and the limits of user namespaces are the
// guest's own.
func (p *Pod) seenByGuest(path, value string) (string, error) {
	switch {
	case strings.HasPrefix(path, "/user/"):
		return "", errors.New("the limits of a user namespace cannot be set from outside of it: leave it out")
	case path != "/net/ipv4/ping_group_range":
		return value, nil
	}
	var first, last int
	if _, err := fmt.Sscan(value, &first, &last); err != nil {
		return "", fmt.Errorf("%q is not a range of groups: %w", value, err)
	}
	guestFirst, ok := guestID(p.users.Gids, first)
	guestLast, alsoOK := guestID(p.users.Gids, last)
	if !ok || !alsoOK {
		return "", fmt.Errorf("groups %d to %d are not all of the pod's user namespace: give some that are", first, last)
	}
	return fmt.Sprintf("%d %d", guestFirst, guestLast), nil
}

func swap(r rune) rune {
	switch r {
	case '.':
		return '/'
	case '/':
		return '.'
	}
	return r
}

// holderRoot is an empty directory.
var holderRoot = api.PodPath("root")

// confine leaves the process with nothing to be had by entering it or its mount namespace:
// containers that share its PID namespace see it.
func confine(user, group string) error {
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(group)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount", func() error { return unix.Mount(holderRoot, holderRoot, "", unix.MS_BIND, "") }},
		{"chdir", func() error { return unix.Chdir(holderRoot) }},
		// The old root is put over the new one, and taken away (pivot_root(2), NOTES).
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"umount", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"chdir", func() error { return unix.Chdir("/") }},
		// Go changes all threads.
		{"setgroups", func() error { return syscall.Setgroups(nil) }},
		{"setresgid", func() error { return syscall.Setresgid(gid, gid, gid) }},
		{"setresuid", func() error { return syscall.Setresuid(uid, uid, uid) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("leaving the agent's root: %w", os.NewSyscallError(step.name, err))
		}
	}
	return nil
}
