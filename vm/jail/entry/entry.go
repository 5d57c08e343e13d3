// Package entry is how a process that cooperates enters its jail: what it and its keeper,
// a thread of the shim (package jail), say to each other, and the process's side of it. It
// is a package of its own so that the process has nothing in it of what builds jails.
//
// The process says that it has loaded what it needs of the host's file system, one byte, or
// why it cannot. The keeper moves it into the jail and answers with the filter of system
// calls that the process is to install: how many instructions, then these. An answer that
// breaks off is none: the process ends.
package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// Control names the variable of the environment that has the number of the descriptor on
// which process and keeper talk.
const Control = "MSB_JAIL"

// What the process says.
const (
	Loaded = 'L' // it is loaded: move me
	Failed = 'F' // it is not; the reason follows
)

// Answer is the keeper's: the process is in its jail, and is to install this filter. Without
// instructions it has none. Process and keeper are of one machine, so the bytes are in its
// order: the number of instructions in two, then struct sock_filter of each (seccomp(2)).
func Answer(filter []unix.SockFilter) ([]byte, error) {
	if len(filter) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("a filter of %d instructions; the kernel takes %d", len(filter), unix.BPF_MAXINSNS)
	}
	return binary.Append(binary.NativeEndian.AppendUint16(nil, uint16(len(filter))), binary.NativeEndian, filter)
}

// Enter is called by a process that has loaded what it needs of the host's file system. It
// returns when the process is in its jail.
func Enter() error {
	control, err := controlFile()
	if err != nil {
		return err
	}
	defer control.Close()
	if _, err := control.Write([]byte{Loaded}); err != nil {
		return fmt.Errorf("talking to the shim: %w", err)
	}
	filter, err := readAnswer(control)
	if err != nil {
		return fmt.Errorf("the shim did not say that this is the jail: %w", err)
	}
	if len(filter) == 0 {
		return nil
	}
	return install(filter)
}

func readAnswer(control io.Reader) ([]unix.SockFilter, error) {
	count := make([]byte, 2)
	if _, err := io.ReadFull(control, count); err != nil {
		return nil, err
	}
	filter := make([]unix.SockFilter, binary.NativeEndian.Uint16(count))
	return filter, binary.Read(control, binary.NativeEndian, filter)
}

// Fail is called instead of Enter by a process that could not load what it needs.
func Fail(reason error) {
	if control, err := controlFile(); err == nil {
		_, _ = control.Write(append([]byte{Failed}, reason.Error()...))
		control.Close()
	}
}

func controlFile() (*os.File, error) {
	fd, err := strconv.Atoi(os.Getenv(Control))
	if err != nil {
		return nil, errors.New("this program is started by the shim; it is not run by hand")
	}
	return os.NewFile(uintptr(fd), "control"), nil
}

// install puts the filter on every thread of this process, and with it no_new_privs, without
// which the kernel takes no filter.
func install(filter []unix.SockFilter) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	thread, err := rawcall.FilterAllThreads(filter)
	if err != nil {
		return os.NewSyscallError("seccomp", err)
	}
	if thread != 0 {
		return fmt.Errorf("thread %d could not be given the system call filter", thread)
	}
	return nil
}
