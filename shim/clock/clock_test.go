package clock

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

func serve(now func() time.Time, jumps <-chan struct{}) (guest net.Conn, done <-chan error) {
	guest, host := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(host, now, jumps) }()
	return guest, ended
}

func expect(t *testing.T, guest net.Conn, number byte, want time.Time) {
	t.Helper()
	var b [api.ClockAnswerSize]byte
	if _, err := io.ReadFull(guest, b[:]); err != nil {
		t.Fatal(err)
	}
	if got, now := api.ParseClockAnswer(b[:]); got != number || !now.Equal(want) {
		t.Errorf("answer %d: %v, want %d: %v", got, now, number, want)
	}
}

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := time.Duration(0)
		now := func() time.Time { return time.Now().Add(ahead) }
		jumps := make(chan struct{})
		guest, done := serve(now, jumps)
		for number := byte(1); number < 4; number++ {
			time.Sleep(time.Second)
			if _, err := guest.Write([]byte{number}); err != nil {
				t.Fatal(err)
			}
			expect(t, guest, number, now())
		}
		synctest.Wait()
		ahead = -time.Hour // the host's clock is set
		jumps <- struct{}{}
		expect(t, guest, api.ClockJumped, now())
		guest.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}

// A guest that asks all the time is told what it may ask for, and no more.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest, done := serve(time.Now, nil)
		go func() { _, _ = guest.Write(make([]byte, 1000)) }()
		answers, err := io.ReadAll(guest)
		if err != nil || len(answers) != api.ClockBurst*api.ClockAnswerSize {
			t.Errorf("%d bytes of answers, %v", len(answers), err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), fmt.Sprintf("more than %d times a second", api.ClockPerSecond)) {
			t.Errorf("Serve = %v", err)
		}
		guest.Close()
	})
}

// A guest that does not read what it is told holds nothing up, and its end is seen.
func TestMuteGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jumps := make(chan struct{})
		guest, done := serve(time.Now, jumps)
		jumps <- struct{}{}
		time.Sleep(time.Hour)
		guest.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}
