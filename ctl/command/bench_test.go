package command

import (
	"bytes"
	"testing"
	"time"
)

func TestBenched(t *testing.T) {
	ours := []time.Duration{3 * time.Second, time.Second, 2 * time.Second}
	theirs := []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond}
	b := benched{Image: "image", Rounds: 3, Runtimes: []benchedRuntime{
		{"ours", figuresOf(ours, ours), figuresOf(theirs, theirs)},
		{"theirs", figuresOf(theirs, ours), figuresOf(ours, theirs)},
	}}
	var out bytes.Buffer
	if err := b.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `3 of each runtime, in turns: image

WHAT   RUNTIME  P50      P95      × P50  × P95
start  ours     2000 ms  3000 ms  -      -
start  theirs   20 ms    30 ms    100    100
end    ours     20 ms    30 ms    -      -
end    theirs   2000 ms  3000 ms  0.01   0.01

start                   10 ms                                                3000 ms
ours                                                                    █      █   █
theirs                  █      █   █

end                     10 ms                                                3000 ms
ours                    █      █   █
theirs                                                                  █      █   █
`
	if got := out.String(); got != want {
		t.Errorf("printed:\n%s\nwant:\n%s", got, want)
	}
}
