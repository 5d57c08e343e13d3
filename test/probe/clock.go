package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// clock looks at the clock a thousand times a second. It answers each line that it reads:
// "now" with the time in nanoseconds since the epoch, and by how many nanoseconds the clock
// has gone back at most since it was last set here; "set DURATION" sets it, and nothing is
// answered but "ok".
func clock([]string) error {
	var mu sync.Mutex // the clock is looked at or set, not both
	var back int64
	last := time.Now().UnixNano()
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			mu.Lock()
			now := time.Now().UnixNano()
			back, last = max(back, last-now), now
			mu.Unlock()
		}
	}()
	set := func(by time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		spec := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &spec); err != nil {
			return err
		}
		back, last = 0, time.Now().UnixNano()
		return nil
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, by, _ := strings.Cut(lines.Text(), " ")
		if word == "now" {
			mu.Lock()
			fmt.Println(time.Now().UnixNano(), back)
			mu.Unlock()
			continue
		}
		duration, err := time.ParseDuration(by)
		if err != nil {
			return err
		}
		if err := set(duration); err != nil {
			return err
		}
		fmt.Println("ok")
	}
	return lines.Err()
}
