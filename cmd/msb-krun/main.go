// msb-krun is the VMM of the krun driver: a process that becomes a libkrun
// microVM. The shim starts it; it is not run by hand. "msb-krun check LIBRARY" tells
// whether a library will do, for msbctl, which is not dynamically linked.
//
// It is a program of its own, and not the shim once more, because libkrun makes
// it dynamically linked and because it is the part that a guest may come to own:
// the less there is in it, the better.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun/libkrun"
)

// libkrun names the thread that it is started on, and the process has the name of
// its first thread.
func init() { runtime.LockOSThread() }

func main() {
	program := run
	if len(os.Args) == 3 && os.Args[1] == "check" {
		program = func() error { _, err := libkrun.Load(os.Args[2]); return err }
	}
	if err := program(); err != nil {
		fmt.Fprintln(os.Stderr, "msb-krun:", err)
		os.Exit(1)
	}
}

func run() error {
	// The guest's work is done by libkrun's own threads.
	debug.SetGCPercent(-1)
	signal.Ignore(unix.SIGPIPE)
	var machine api.Machine
	if err := json.NewDecoder(os.Stdin).Decode(&machine); err != nil {
		return fmt.Errorf("reading the machine's description: %w", err)
	}
	library, err := load(machine)
	if err != nil {
		entry.Fail(err)
		return err
	}
	if err := ownDescriptors(manyDescriptors); err != nil {
		entry.Fail(err)
		return err
	}
	if err := entry.Enter(); err != nil {
		return err
	}
	return library.Boot(machine)
}

// load does what needs the host's files.
func load(machine api.Machine) (*libkrun.Library, error) {
	library, err := libkrun.Load(machine.Library)
	if err != nil {
		return nil, err
	}
	return library, library.Check(machine)
}

// manyDescriptors is more than libkrun has open before its guest opens files.
const manyDescriptors = 256

// ownDescriptors gives this thread, and those that libkrun makes from it, a table of descriptors that
// Go's other threads do not share, with that much room. One that is shared grows when nobody can read
// the old one any more, which the kernel waits for (synchronize_rcu): in the middle of the start, when
// libkrun has its 65th.
func ownDescriptors(room int) error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	err := unix.Dup3(unix.Stdin, room-1, unix.O_CLOEXEC)
	if errors.Is(err, unix.EBADF) {
		return nil // it may not have as many
	}
	if err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return unix.Close(room - 1)
}
