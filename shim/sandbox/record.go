package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// recordFile is the file of a bundle that names its VMM's process, for the case
// that the shim is killed and the kernel's death signal did not end the VMM.
const recordFile = "vmm.pid"

func writeRecord(bundle string, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, recordFile), fmt.Appendf(nil, "%d %s\n", pid, start), 0o600)
}

func removeRecord(bundle string) error {
	err := os.Remove(filepath.Join(bundle, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// KillRecorded ends the VMM that a bundle's shim left behind, if it still runs,
// and returns its process id, or 0 when the bundle never had one. The process
// is held by descriptor and its start time compared, so that no other process
// with a recycled id is hit.
func KillRecorded(ctx context.Context, bundle string) (pid int, err error) {
	data, err := os.ReadFile(filepath.Join(bundle, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var start string
	if _, err := fmt.Sscan(string(data), &pid, &start); err != nil {
		return 0, fmt.Errorf("%s of %s is damaged: %w", recordFile, bundle, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return pid, nil
	}
	if err != nil {
		return pid, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if now, err := startTime(pid); err != nil || now != start {
		return pid, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return pid, os.NewSyscallError("pidfd_send_signal", err)
	}
	return pid, awaitExit(ctx, fd)
}

// awaitExit waits for the process of a pidfd, which becomes readable then.
func awaitExit(ctx context.Context, fd int) error {
	const interval = 100 // milliseconds
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, interval)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
	return ctx.Err()
}

// startTime is the process's start in clock ticks since boot: field 22 of
// /proc/<pid>/stat (proc_pid_stat(5)). The second field may contain spaces.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	const index = 22 - 3
	if len(fields) <= index {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	return fields[index], nil
}
