package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// clock looks at the clock a thousand times a second. It answers each line that it reads:
// "now" with the time in nanoseconds since the epoch, and by how many nanoseconds the clock
// has gone back at most since it was last set here; "set DURATION" sets it, and nothing is
// answered but "ok".
func clock([]string) error {
	var back, last atomic.Int64
	last.Store(time.Now().UnixNano())
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			now := time.Now().UnixNano()
			back.Store(max(back.Load(), last.Swap(now)-now))
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, by, _ := strings.Cut(lines.Text(), " ")
		if word == "now" {
			fmt.Println(time.Now().UnixNano(), back.Load())
			continue
		}
		duration, err := time.ParseDuration(by)
		if err != nil {
			return err
		}
		spec := unix.NsecToTimespec(time.Now().Add(duration).UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &spec); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond) // the looks have seen it
		back.Store(0)
		fmt.Println("ok")
	}
	return lines.Err()
}
