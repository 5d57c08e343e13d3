package clock

import (
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// world is a host with its clock and a guest with another, in a bubble: the bubble's time is
// the true one.
type world struct {
	t     *testing.T
	host  net.Conn
	jumps chan struct{} // of the guest's clock

	mu      sync.Mutex
	ahead   time.Duration   // the host's clock, of the bubble's
	delays  []time.Duration // of the next answers; then there is none
	asked   int
	mute    bool
	error   time.Duration // the guest's clock, of the bubble's, at since
	rate    float64
	since   time.Time
	stepped int
}

func newWorld(t *testing.T) *world {
	host, guest := net.Pipe()
	w := &world{t: t, host: host, jumps: make(chan struct{}, 1), since: time.Now()}
	go w.answer()
	done := make(chan error)
	go func() { done <- keep(guest, w, w.jumps) }()
	t.Cleanup(func() {
		host.Close()
		if err := <-done; err != nil || w.rate != 0 {
			t.Errorf("keep = %v, the rate is %v", err, w.rate)
		}
	})
	return w
}

func (w *world) answer() {
	for {
		var question [1]byte
		if _, err := w.host.Read(question[:]); err != nil {
			return
		}
		w.mu.Lock()
		w.asked++
		var delay time.Duration
		if len(w.delays) > 0 {
			delay, w.delays = w.delays[0], w.delays[1:]
		}
		mute := w.mute
		w.mu.Unlock()
		if mute {
			continue
		}
		time.Sleep(delay / 2)
		reply := api.AppendClockAnswer(nil, question[0], w.hostNow())
		time.Sleep(delay / 2)
		_, _ = w.host.Write(reply)
	}
}

func (w *world) hostNow() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// settle brings the guest's clock up to the time that it is. It is called with mu held.
func (w *world) settle() {
	passed := time.Since(w.since)
	w.error += time.Duration(float64(passed) * w.rate)
	w.since = w.since.Add(passed)
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	// The wall clock alone has the error: what has passed is measured by the other.
	return time.Now().Add(w.error)
}

func (w *world) step(by time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	w.error += by
	w.stepped++
	return nil
}

func (w *world) slew(rate float64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	w.rate = rate
	return nil
}

// off is by how much the guest's clock is ahead of the host's.
func (w *world) off() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	return w.error - w.ahead
}

// set is somebody who sets the guest's clock.
func (w *world) set(by time.Duration) {
	w.mu.Lock()
	w.settle()
	w.error += by
	w.mu.Unlock()
	w.jumps <- struct{}{}
}

// setHost is somebody who sets the host's; told, the host says so.
func (w *world) setHost(by time.Duration, told bool) {
	w.mu.Lock()
	w.ahead += by
	w.mu.Unlock()
	if told {
		_, _ = w.host.Write(api.AppendClockAnswer(nil, api.ClockJumped, w.hostNow()))
	}
}

// count reads one of the world's counters.
func (w *world) count(counter *int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *counter
}

// delay sets how long the next answers take.
func (w *world) delay(delays ...time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delays = delays
}

// within checks that after a time the clocks agree, and how often the guest's was set meanwhile.
func (w *world) within(wait time.Duration, steps int) {
	w.t.Helper()
	before := w.count(&w.stepped)
	time.Sleep(wait)
	synctest.Wait()
	off, stepped := w.off(), w.count(&w.stepped)-before
	if off.Abs() > bound || stepped != steps {
		w.t.Errorf("after %v the clock is %v ahead, set %d times, want %d", wait, off, stepped, steps)
	}
}

func TestKeep(t *testing.T) {
	for name, test := range map[string]func(*world){
		"set by five seconds": func(w *world) { w.set(5 * time.Second); w.within(3*time.Second, 1) },
		"set by an hour":      func(w *world) { w.set(-time.Hour); w.within(3*time.Second, 1) },
		"set a little":        func(w *world) { w.set(300 * time.Millisecond); w.within(12*time.Second, 0) },
		"the host is set":     func(w *world) { w.setHost(-time.Hour, true); w.within(3*time.Second, 1) },
		"the host slept":      func(w *world) { w.setHost(8*time.Hour, true); w.within(3*time.Second, 1) },
		"a little":            func(w *world) { w.setHost(-400*time.Millisecond, true); w.within(12*time.Second, 0) },
		"nobody says so":      func(w *world) { w.setHost(time.Hour, false); w.within(2*time.Minute, 1) },
		"slow answers": func(w *world) {
			w.delay(time.Second, 400*time.Millisecond, 20*time.Millisecond, time.Second, time.Second)
			w.set(5 * time.Second)
			w.within(6*time.Second, 1)
		},
		"as slow there as back": func(w *world) { // half of the round trip is taken off
			w.delay(slices.Repeat([]time.Duration{180 * time.Millisecond}, 100)...)
			w.set(5 * time.Second)
			w.within(6*time.Second, 1)
		},
		"no answers": func(w *world) {
			w.set(-300 * time.Millisecond)
			time.Sleep(6 * time.Second) // while it is slewed
			w.mu.Lock()
			w.mute = true
			w.mu.Unlock()
			w.within(time.Hour, 0)
			w.mu.Lock()
			w.mute = false
			w.mu.Unlock()
			w.setHost(time.Hour, false)
			w.within(time.Minute, 1)
		},
		"again and again": func(w *world) {
			before := w.count(&w.asked)
			for range 100 {
				select {
				case w.jumps <- struct{}{}:
				default:
				}
				time.Sleep(100 * time.Millisecond)
			}
			if asked := w.count(&w.asked) - before; asked < 5 || asked > 11 {
				w.t.Errorf("asked %d times in 10 s", asked)
			}
		},
		"idle": func(w *world) {
			before := w.count(&w.asked)
			time.Sleep(time.Hour)
			if asked := w.count(&w.asked) - before; asked != 60 {
				w.t.Errorf("asked %d times in an hour", asked)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				time.Sleep(500 * time.Millisecond) // it has looked once
				test(w)
			})
		})
	}
}

// What is slewed never goes back.
func TestNeverBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(2 * time.Second)
		w.set(490 * time.Millisecond)
		last := w.now()
		for range 2000 {
			time.Sleep(10 * time.Millisecond)
			now := w.now()
			if passed := now.Round(0).Sub(last.Round(0)); passed < 9*time.Millisecond {
				t.Fatalf("in 10 ms the clock went %v", passed)
			}
			last = now
		}
		w.within(0, 0)
	})
}
