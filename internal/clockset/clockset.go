// Package clockset tells when the machine's clock jumps: when somebody sets it, and when
// the machine wakes from sleep. Nothing wakes up for it meanwhile.
package clockset

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// never is a time that a timer waits for in vain: the year 2242, in seconds since the epoch.
const never = 1 << 33

// Notify returns a channel that receives something after each jump, until ctx ends. Jumps
// for which nobody has looked yet are told as one.
//
// A timer of the real-time clock with TFD_TIMER_CANCEL_ON_SET is cancelled by a jump
// (timerfd_create(2)); that read it makes it wait for the next one.
func Notify(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching the clock: %w", os.NewSyscallError("timerfd_create", err))
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	at := unix.ItimerSpec{Value: unix.Timespec{Sec: never}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &at, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("watching the clock: %w", os.NewSyscallError("timerfd_settime", err)), timer.Close())
	}
	context.AfterFunc(ctx, func() { timer.Close() })
	jumps := make(chan struct{}, 1)
	go tell(timer, jumps)
	return jumps, nil
}

// tell passes cancellations of the timer on until it is closed.
func tell(timer *os.File, jumps chan<- struct{}) {
	for {
		_, err := timer.Read(make([]byte, 8))
		if !errors.Is(err, unix.ECANCELED) {
			return
		}
		select {
		case jumps <- struct{}{}:
		default:
		}
	}
}
