package harness

import (
	"fmt"
	"os"
	"strings"
)

// Main is for TestMain: it starts containerd, runs tests on it, and ends it. If they
// failed it shows errors and consoles of the log. The result is the exit code.
func Main(run func(*Host) int, options ...Option) (code int) {
	host, err := Start(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting containerd:", err)
		return 1
	}
	defer func() {
		if code != 0 {
			host.showLog()
		}
		if err := host.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "ending containerd:", err)
			code = 1
		}
	}()
	return run(host)
}

func (h *Host) showLog() {
	fmt.Fprintln(os.Stderr, "--- containerd's log, errors and consoles:")
	for line := range strings.Lines(h.Log()) {
		if strings.Contains(line, "level=error") || strings.Contains(line, "source=console") {
			fmt.Fprint(os.Stderr, line)
		}
	}
}

// NothingLeft fails the test if, at its end, something is there that was not at its
// start.
func (h *Host) NothingLeft(t T) {
	t.Helper()
	before := h.Leftovers()
	t.Cleanup(func() {
		if left := h.New(before); len(left) > 0 {
			t.Fatal("left behind:\n" + strings.Join(left, "\n"))
		}
	})
}
