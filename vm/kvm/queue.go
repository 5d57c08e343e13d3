package kvm

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A queue is where a thread waits for a processor.
type queue struct {
	schedstat *os.File // nil where the kernel tells nothing of it
}

// joinQueue has the goroutine stay in one thread, whose queue it returns, until leave.
func joinQueue() (q queue, leave func()) {
	runtime.LockOSThread()
	q.schedstat, _ = os.Open("/proc/thread-self/schedstat")
	return q, func() {
		q.schedstat.Close()
		runtime.UnlockOSThread()
	}
}

// waited is how long the thread has waited in all: the second figure, in nanoseconds, of its schedstat
// (Documentation/scheduler/sched-stats.rst). It is zero where that is not known.
func (q queue) waited() time.Duration {
	text := make([]byte, 128)
	n, _ := q.schedstat.ReadAt(text, 0) // 0 and io.EOF, or os.ErrInvalid, where there is none
	fields := strings.Fields(string(text[:n]))
	if len(fields) != 3 {
		return 0
	}
	waited, _ := strconv.ParseInt(fields[1], 10, 64)
	return time.Duration(waited)
}
