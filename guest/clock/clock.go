// Package clock holds the guest's clock at the host's. The agent asks for the host's time
// now and then, and at once when the host says that its clock was set or when somebody has
// set the guest's. A large error is set right; a small one goes by a clock that runs a bit
// faster or slower, so that it never goes back (plan.go).
package clock

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/clockset"
)

const (
	// questions is how many a look asks at most, until one is answered as fast as prompt.
	questions = 5
	prompt    = 10 * time.Millisecond
	// patience is how long a question waits for its answer.
	patience = 2 * time.Second
	// rest is the least time between two looks, whoever sets clocks meanwhile.
	rest = time.Second
)

// errLate says that the host has not answered.
var errLate = errors.New("the host has not told the time")

// Keep holds the clock at that of the host, which answers on the stream, until this ends.
// It owns the stream.
func Keep(ctx context.Context, stream net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jumps, err := clockset.Notify(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("what sets the guest's clock is noticed after a minute")
	}
	if err := keep(stream, kernel{}, jumps); err != nil {
		log.G(ctx).WithError(err).Error("keeping the clock")
	}
}

// A clock can be read, set, and made to run faster or slower.
type clock interface {
	now() time.Time
	step(by time.Duration) error
	slew(rate float64) error
}

// A keeper holds a clock at the host's.
type keeper struct {
	stream  net.Conn
	clock   clock
	own     <-chan struct{} // jumps of the clock
	host    chan struct{}   // jumps of the host's; closed when the stream has ended
	answers chan answer     // closed when the stream has ended
	number  byte            // of the last question
}

// An answer is the host's time, and the guest's when it arrived.
type answer struct {
	number         byte
	host, received time.Time
}

// keep looks until the stream ends.
func keep(stream net.Conn, clock clock, jumps <-chan struct{}) error {
	k := &keeper{stream: stream, clock: clock, own: jumps, host: make(chan struct{}, 1), answers: make(chan answer, questions)}
	defer stream.Close()
	go k.receive()
	for {
		next, err := k.look()
		if errors.Is(err, net.ErrClosed) {
			return clock.slew(0)
		}
		if err != nil {
			return errors.Join(err, clock.slew(0))
		}
		time.Sleep(rest)
		select {
		case <-k.own:
		case <-k.host:
		case <-time.After(next - rest):
		}
	}
}

// receive passes on what the host says, until the stream ends.
func (k *keeper) receive() {
	defer close(k.host)
	defer close(k.answers)
	for {
		var b [api.ClockAnswerSize]byte
		if _, err := io.ReadFull(k.stream, b[:]); err != nil {
			return
		}
		a := answer{received: k.clock.now()}
		if a.number, a.host = api.ParseClockAnswer(b[:]); a.number == api.ClockJumped {
			select {
			case k.host <- struct{}{}:
			default:
			}
			continue
		}
		k.answers <- a
	}
}

// look compares the clocks and corrects the guest's. It returns the time until the next look.
func (k *keeper) look() (next time.Duration, err error) {
	if err := k.clock.slew(0); err != nil {
		return 0, err
	}
	best, err := k.sample()
	if errors.Is(err, errLate) {
		return slewing, nil
	}
	if err != nil {
		return 0, err
	}
	c := best.correct()
	if c.step != 0 {
		err = k.clock.step(c.step)
	} else {
		err = k.clock.slew(c.rate)
	}
	return c.next, err
}

// sample asks, and returns the sample that says the most.
func (k *keeper) sample() (best sample, err error) {
	best.rtt = patience + 1
	for range questions {
		s, err := k.ask()
		if err != nil {
			return sample{}, err
		}
		if s.rtt < best.rtt {
			best = s
		}
		if best.rtt <= prompt {
			break
		}
	}
	return best, nil
}

// ask asks once.
func (k *keeper) ask() (sample, error) {
	k.number++
	if k.number == api.ClockJumped {
		k.number++
	}
	sent := k.clock.now()
	if _, err := k.stream.Write([]byte{k.number}); err != nil {
		return sample{}, net.ErrClosed
	}
	late := time.After(patience)
	for {
		select {
		case a, ok := <-k.answers:
			switch {
			case !ok:
				return sample{}, net.ErrClosed
			case a.number == k.number:
				rtt := a.received.Sub(sent)
				return sample{offset: a.host.Add(rtt / 2).Sub(a.received.Round(0)), rtt: rtt}, nil
			}
		case <-late:
			return sample{}, errLate
		}
	}
}
