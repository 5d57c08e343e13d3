// Package pod makes what the containers of a pod share and none of them owns:
// shared memory, the files of its name and its resolver, and a process that holds
// its namespaces.
package pod

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Create makes what is asked for. It returns the process that holds the pod's
// namespaces, or 0.
func Create(request *api.CreatePodRequest) (pid int, err error) {
	shm := api.PodPath(api.PodSharedMemory)
	if err := os.MkdirAll(filepath.Dir(shm), 0o711); err != nil {
		return 0, err
	}
	if err := os.Mkdir(shm, 0o755); err != nil {
		return 0, fmt.Errorf("the pod's shared memory: %w", err)
	}
	// As containerd's CRI plugin mounts it.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("shm", shm, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", request.SharedMemory)); err != nil {
		return 0, fmt.Errorf("mounting the pod's shared memory of %d bytes: %w", request.SharedMemory, err)
	}
	for _, file := range request.Files {
		if err := api.CheckName("file of the pod", file.Name); err != nil {
			return 0, err
		}
		if err := os.WriteFile(api.PodPath(file.Name), file.Content, 0o644); err != nil {
			return 0, err
		}
	}
	if request.Namespaces == nil {
		return 0, nil
	}
	return startHolder(request.Namespaces)
}

// startHolder starts Hold in namespaces of its own.
func startHolder(namespaces *api.PodNamespaces) (pid int, err error) {
	ready, report, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	cmd := exec.Command(api.Init, append([]string{HoldCommand, namespaces.Hostname}, assignments(namespaces.Sysctls)...)...)
	cmd.ExtraFiles = []*os.File{report}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	err = thread.Run(func() error {
		if err := joinNetwork(); err != nil {
			return err
		}
		return cmd.Start()
	})
	report.Close()
	if err != nil {
		return 0, fmt.Errorf("starting the process that holds the pod's namespaces: %w", err)
	}
	// PID 1 reaps it, as every process.
	problem, err := io.ReadAll(ready)
	if err == nil && len(problem) > 0 {
		err = fmt.Errorf("%s: %w", problem, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid
	score := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	return pid, os.WriteFile(score, []byte(oomScoreAdj), 0)
}

// oomScoreAdj is a sandbox container's in containerd's CRI plugin.
const oomScoreAdj = "-998"

func assignments(sysctls map[string]string) (list []string) {
	for name, value := range sysctls {
		list = append(list, name+"="+value)
	}
	return list
}

func joinNetwork() error {
	namespace, err := os.Open(api.NetworkPath())
	if err != nil {
		return err
	}
	defer namespace.Close()
	return unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
}

// HoldCommand is the agent's first argument that makes it call Hold, with the
// pod's host name and kernel parameters after it.
const HoldCommand = "hold"

// reportFD is the descriptor on which Hold says what went wrong; it closes it when
// the namespaces are as asked.
const reportFD = 3

// Hold is the whole life of the process that holds a pod's namespaces. In its PID
// namespace it is the init: orphans become its children, and the kernel reaps them.
func Hold(hostname string, sysctls []string) {
	report := os.NewFile(reportFD, "report")
	if err := prepare(hostname, sysctls); err != nil {
		fmt.Fprint(report, err)
		os.Exit(1)
	}
	report.Close()
	for {
		_ = unix.Pause()
	}
}

func prepare(hostname string, sysctls []string) error {
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("setting the pod's host name %q: %w", hostname, err)
		}
	}
	for _, sysctl := range sysctls {
		name, value, _ := strings.Cut(sysctl, "=")
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	// An init whose containers signal it stays; and of ignored children the kernel
	// keeps nothing.
	signal.Ignore()
	return confine()
}

// setSysctl sets a parameter of the namespaces that this process is in. Names have
// dots or slashes between their parts (sysctl(8)).
func setSysctl(name, value string) error {
	path := name
	if first := strings.IndexAny(name, "./"); first >= 0 && name[first] == '.' {
		path = strings.Map(swap, name)
	}
	file := filepath.Join("/proc/sys", filepath.Clean("/"+path))
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("setting the pod's kernel parameter %s to %q: %w", name, value, err)
	}
	return nil
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

// confine leaves the process with nothing to be had by entering it: containers that
// share its PID namespace see it.
func confine() error {
	root := api.PodPath("root")
	if err := os.Mkdir(root, 0o555); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := errors.Join(unix.Chroot(root), unix.Chdir("/")); err != nil {
		return fmt.Errorf("leaving the agent's root: %w", err)
	}
	const nobody = 65534
	// Go changes all threads.
	return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
}
