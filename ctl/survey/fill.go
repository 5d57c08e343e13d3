package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// runtimeName begins what the shim's program says.
const runtimeName = "io.containerd.msb.v2"

// FillSpares has a shim's program make the spares of a request, as a shim of the containerd at the
// request's address would, and returns when they wait. When the context ends, the program is
// killed: a spare that boots goes on, and no more are made.
func FillSpares(ctx context.Context, program string, request spare.Request) (err error) {
	if request.Containerd, err = PeerOf(ctx, request.Address); err != nil {
		return fmt.Errorf("containerd has ended, or is not there (msbctl spare fill --address): %w", err)
	}
	if _, err := PeerOf(ctx, request.Events); err != nil {
		return fmt.Errorf("containerd's ttrpc server, whose end a spare waits for, is not at %s: %w", request.Events, err)
	}
	cmd, err := fillCommand(ctx, program, request)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := startAt(cmd, request.Containerd); err != nil {
		return fmt.Errorf("running %s where containerd is: %w", program, err)
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*exec.ExitError)) && said.Len() > 0:
		return errors.New(strings.TrimPrefix(strings.TrimSpace(said.String()), runtimeName+": "))
	}
	return err
}

// fillCommand is the program with what a child of containerd has from its start, but for
// namespaces.
func fillCommand(ctx context.Context, program string, request spare.Request) (*exec.Cmd, error) {
	order, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", request.Containerd))
	if err != nil {
		return nil, fmt.Errorf("containerd's environment: %w", err)
	}
	cmd := exec.CommandContext(ctx, program, "-address", request.Address, "fill")
	cmd.Dir = "/"
	cmd.Env = append(strings.FieldsFunc(string(environment), func(r rune) bool { return r == 0 }), spare.FillEnv+"="+string(order))
	// What ends msbctl on a terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// startAt starts a program in the namespaces of a process, but for those of process ids and users,
// and below its root.
func startAt(cmd *exec.Cmd, pid int) error {
	kinds := []string{"cgroup", "ipc", "net", "uts", "mnt"}
	files := make(map[string]*os.File)
	for _, kind := range kinds {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return err
		}
		defer file.Close()
		files[kind] = file
	}
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return err
	}
	defer root.Close()
	return thread.Run(func() error {
		// A thread that shares its root with others cannot change it (setns(2)).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		for _, kind := range kinds {
			if err := unix.Setns(int(files[kind].Fd()), 0); err != nil {
				return fmt.Errorf("entering its namespace (%s): %w", kind, os.NewSyscallError("setns", err))
			}
		}
		// With a mount namespace comes the root of that, which the process may have changed.
		if err := unix.Fchdir(int(root.Fd())); err != nil {
			return os.NewSyscallError("fchdir", err)
		}
		if err := unix.Chroot("."); err != nil {
			return os.NewSyscallError("chroot", err)
		}
		return cmd.Start()
	})
}
