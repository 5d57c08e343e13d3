package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/record"
)

// recordFile is the file of a bundle that says what its sandbox has on the host, for
// the case that the shim is killed.
const recordFile = "sandbox.json"

// A Record is what a sandbox has on the host that does not go with its shim.
type Record struct {
	// Pid is the VMM's process, which the kernel's death signal should have ended,
	// and Start its start time, in clock ticks since boot; 0 if there is none yet.
	Pid   int
	Start string
	// CgroupsPath names the control group (runtime-spec, config-linux.md).
	CgroupsPath string
	// Network is the path of a network namespace of others with TAP devices in it;
	// empty if there are none.
	Network string
	// Spare is the directory of the spare that the VM was; empty if it was none.
	Spare string

	// The rest is for msbctl. Shim is the shim's process, Driver the VMM's kind, empty before
	// it is chosen; CPUs and Memory, in bytes, are the VM's size.
	Shim   int
	Driver string
	CPUs   int
	Memory int64
}

func (r Record) write(bundle string) error { return record.Write(bundle, recordFile, r) }

// ReadRecord is what the shim of a bundle has noted; a nil Record means nothing.
func ReadRecord(bundle string) (*Record, error) { return record.Read[Record](bundle, recordFile) }

func removeRecord(bundle string) error { return record.Remove(bundle, recordFile) }

// Kill ends the VMM that a dead shim left behind, if it still runs. The process is
// held by descriptor and its start time compared, so that no other process with a
// recycled id is hit.
func (r *Record) Kill(ctx context.Context) error {
	pid := r.Pid
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if now, err := startTime(pid); err != nil || now != r.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return AwaitExit(ctx, fd)
}

// AwaitExit waits for the process of a pidfd, which becomes readable then.
func AwaitExit(ctx context.Context, fd int) error {
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
// /proc/<pid>/stat (proc_pid_stat(5)).
func startTime(pid int) (string, error) {
	fields, err := stat(pid)
	if err != nil {
		return "", err
	}
	return fields[22-firstField], nil
}

// runs tells whether a process has not ended and does not end just now. One that was killed
// is none of its parent's to wait for before all its threads are gone, which takes a while where
// it had much memory; but its first thread is dead soon (state Z, or X, in field 3).
func runs(pid int) bool {
	fields, err := stat(pid)
	return err == nil && !strings.ContainsAny(fields[3-firstField], "ZXx")
}

// firstField is the number of the first that stat returns.
const firstField = 3

// stat are the fields of /proc/<pid>/stat after the second, which may contain spaces. There
// are all up to the 22nd at least.
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) <= 22-firstField {
		return nil, fmt.Errorf("/proc/%d/stat has only %d fields after the second", pid, len(fields))
	}
	return fields, nil
}
