package harness

import (
	"fmt"
	"time"
)

// mostAsks is how often AskAgain asks, and firstPause how long it waits before it asks the second
// time; each further pause is twice as long.
const (
	mostAsks   = 5
	firstPause = time.Second
)

// AskAgain asks for what a guest or shim has a second or two for (docs/security.md), and asks again
// where that was too short, as it is now and then for an emulated VM or a busy machine. Nothing but
// lateness, which ask tells, is asked again, and that a few times only: what is late as a rule is an
// error. How often it was late is logged.
func AskAgain[A any](logf func(format string, arguments ...any), what string, ask func() (answer A, late bool, err error)) (A, error) {
	pause := firstPause
	for asked := 1; ; asked++ {
		answer, late, err := ask()
		switch {
		case late && asked < mostAsks:
			time.Sleep(pause)
			pause *= 2
			continue
		case late && err != nil:
			return answer, fmt.Errorf("%s: late each of %d times: %w", what, asked, err)
		case late:
			return answer, fmt.Errorf("%s: late each of %d times", what, asked)
		case asked > 1:
			logf("%s: asked %d times, because it was late", what, asked)
		}
		return answer, err
	}
}
