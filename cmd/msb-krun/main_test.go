package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// libkrun's threads have a table of descriptors with room for many, and share it with no other: it
// grows without a wait then.
func TestOwnDescriptors(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = thread.Run(func() error {
		before, err := room()
		if err != nil {
			return err
		}
		if err := ownDescriptors(2 * before); err != nil {
			return err
		}
		if after, err := room(); err != nil || after < 2*before {
			return fmt.Errorf("room for %d descriptors, %v, of %d before", after, err, before)
		}
		return unix.Close(int(file.Fd()))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("what that thread closes, others have closed: %v", err)
	}
}

// room is how many descriptors this thread's table has room for (proc_pid_status(5)).
func room() (size int, err error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "FDSize:")
	_, err = fmt.Sscan(rest, &size)
	return size, err
}
