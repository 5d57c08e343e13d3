package e2e

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// clockBound is how far the guest's clock may be from the host's (docs/architecture.md).
const clockBound = 50 * time.Millisecond

// A container that may set the clock sets it: the guest's is soon the host's again, and the
// host's is as it was. A small error goes without a step back.
func clockAgrees(t *testing.T) {
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithAddedCapabilities([]string{"CAP_SYS_TIME"}),
		oci.WithMounts([]specs.Mount{bind(filepath.Join(host.Output, "tools"), "/probe", "ro")}),
	}}, sleeper...)
	guest := openGuestClock(t, c)
	guest.agrees(t, "after the boot")
	for _, by := range []time.Duration{300 * time.Millisecond, -300 * time.Millisecond, 5 * time.Second, -time.Hour} {
		// Without a jump of its own the host's clock has gone on as long as it took.
		began := time.Now()
		guest.set(t, by)
		back := guest.agrees(t, by.String())
		if by.Abs() < 500*time.Millisecond && back > 0 {
			t.Errorf("set by %v, the clock went back by %v", by, back)
		}
		if moved := time.Now().Round(0).Sub(began.Round(0)) - time.Since(began); moved.Abs() > time.Second {
			t.Errorf("the host's clock was moved by %v", moved)
		}
	}
}

// guestClock is a probe that tells and sets the clock of a guest.
type guestClock struct {
	in  io.Writer
	out *bufio.Reader
}

func openGuestClock(t *testing.T, c *task) guestClock {
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	process, exit := c.startExec(cio.NewCreator(cio.WithStreams(stdin, stdout, stdout)), nil, "/probe/probe", "clock")
	t.Cleanup(func() {
		in.Close()
		if err := process.CloseIO(c.ctx, client.WithStdinCloser); err != nil {
			t.Errorf("closing the probe's stdin: %v", err)
		}
		await(t, exit)
		if _, err := process.Delete(c.ctx); err != nil {
			t.Errorf("deleting the probe: %v", err)
		}
	})
	return guestClock{in, bufio.NewReader(out)}
}

// ask sends a line and reads the answer.
func (g guestClock) ask(t *testing.T, line string) string {
	t.Helper()
	if _, err := fmt.Fprintln(g.in, line); err != nil {
		t.Fatal(err)
	}
	answer, err := g.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (g guestClock) set(t *testing.T, by time.Duration) {
	t.Helper()
	if answer := g.ask(t, "set "+by.String()); answer != "ok\n" {
		t.Fatalf("setting the clock: %s", answer)
	}
}

// agrees waits until the guest's clock is within the bound, as far as a question that took its
// time can tell, and returns by how much it has gone back since it was set.
func (g guestClock) agrees(t *testing.T, when string) (back time.Duration) {
	t.Helper()
	var offset, rtt time.Duration
	if !harness.Eventually(func() bool {
		sent := time.Now()
		var now int64
		if _, err := fmt.Sscan(g.ask(t, "now"), &now, &back); err != nil {
			t.Fatal(err)
		}
		rtt = time.Since(sent)
		offset = time.Unix(0, now).Sub(sent.Add(rtt / 2).Round(0))
		return offset.Abs() <= clockBound+rtt/2 && rtt/2 <= 2*clockBound
	}) {
		t.Fatalf("%s: the guest's clock is %v ahead of the host's, asked in %v", when, offset, rtt)
	}
	return back
}
