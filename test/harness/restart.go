package harness

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Restart ends containerd and starts it again, in the same namespaces. What runs under it
// runs on.
func (h *Host) Restart() error {
	// Keeps the namespaces meanwhile.
	keeper := exec.Command("sleep", "600")
	if err := h.StartCommand(keeper); err != nil {
		return err
	}
	defer func() {
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
	}()
	before := h.containerd
	if err := before.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-h.ended
	log, err := os.OpenFile(h.log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	arguments := before.Args[len(before.Args)-3:] // without the wrapper
	h.containerd = exec.Command(arguments[0], arguments[1:]...)
	h.containerd.Env, h.containerd.Stdout, h.containerd.Stderr = before.Env, log, log
	h.containerd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := h.startContainerd(func() error { return enter(keeper.Process.Pid, h.namespaces) }); err != nil {
		return err
	}
	if err := h.Client.Close(); err != nil {
		return err
	}
	return h.connect()
}

// enter moves the calling thread, which ends with its goroutine, into namespaces of a
// process.
func enter(pid int, namespaces uintptr) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	// A thread can only enter a mount namespace with a working directory and root of its
	// own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return os.NewSyscallError("setns", unix.Setns(pidfd, int(namespaces)))
}
