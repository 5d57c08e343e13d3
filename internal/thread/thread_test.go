package thread

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// f never runs on the main thread, also when that one is the only one that is free,
// and its thread ends.
func TestRun(t *testing.T) {
	runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(runtime.NumCPU())
	failure := errors.New("failure")
	var all sync.WaitGroup
	for range 500 {
		all.Go(func() {
			var thread int
			err := Run(func() error {
				if thread = unix.Gettid(); thread == unix.Getpid() {
					t.Error("on the main thread")
				}
				return failure
			})
			if !errors.Is(err, failure) {
				t.Errorf("Run = %v", err)
			}
			for unix.Tgkill(unix.Getpid(), thread, 0) == nil {
				runtime.Gosched() // until it has ended
			}
		})
	}
	all.Wait()
}
