// Package thread runs code on threads of their own: what belongs to a thread, its
// namespaces, its control group, its capabilities, may be changed there, and ends
// with it.
package thread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Go runs f in a goroutine on a thread that ends with it. It is never the main
// thread: that one would not end, and what /proc/self shows is its.
func Go(f func()) {
	go func() {
		runtime.LockOSThread() // for good
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		running := make(chan struct{})
		Go(func() { close(running); f() })
		<-running // while this one keeps the main thread
		runtime.UnlockOSThread()
	}()
}

// Run is Go, and waits for what f returns.
func Run(f func() error) error {
	result := make(chan error)
	Go(func() { result <- f() })
	return <-result
}

// InNetwork is Run in a network namespace (setns(2)), which stays the caller's.
func InNetwork(namespace *os.File, f func() error) error {
	return Run(func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// InNetworkAt is InNetwork of the namespace at a path.
func InNetworkAt(path string, f func() error) error {
	namespace, err := os.Open(path)
	if err != nil {
		return err
	}
	defer namespace.Close()
	return InNetwork(namespace, f)
}
