// Package clock tells the guest the host's time. What the guest makes of it is the guest's
// affair (guest/clock): nothing of the host depends on it.
package clock

import (
	"fmt"
	"net"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/flood"
)

// Serve answers the guest's questions for the time, and tells it of each jump of the host's
// clock. It owns the stream, and returns when that ends; with an error if the guest asks
// more often than it may.
func Serve(stream net.Conn, now func() time.Time, jumps <-chan struct{}) error {
	defer stream.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-jumps:
				_, _ = stream.Write(api.AppendClockAnswer(nil, api.ClockJumped, now()))
			case <-ended:
				return
			}
		}
	}()
	gate := flood.NewGate(api.ClockBurst, api.ClockPerSecond)
	for {
		var question [1]byte
		if _, err := stream.Read(question[:]); err != nil {
			return nil
		}
		if _, ok := gate.Pass(time.Now(), 1); !ok {
			return fmt.Errorf("the guest asked for the time more than %d times a second and is not told it any more: its clock runs by itself", api.ClockPerSecond)
		}
		if _, err := stream.Write(api.AppendClockAnswer(nil, question[0], now())); err != nil {
			return nil
		}
	}
}
