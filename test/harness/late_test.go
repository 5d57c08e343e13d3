package harness

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// Only what is late is asked again, a few times, and how often is logged.
func TestAskAgain(t *testing.T) {
	failure, lateness := errors.New("refused"), errors.New("too late")
	type answer struct {
		late bool
		err  error
	}
	late, lateAnswer := answer{true, lateness}, answer{true, nil}
	for name, c := range map[string]struct {
		answers []answer // the last again and again
		asked   int
		want    string
		err     error
		logged  string
	}{
		"at once":         {[]answer{{}}, 1, "<nil>", nil, ""},
		"refused":         {[]answer{{false, failure}}, 1, "refused", failure, ""},
		"late once":       {[]answer{late, {}}, 2, "<nil>", nil, "x: asked 2 times, because it was late\n"},
		"late answers":    {[]answer{lateAnswer, lateAnswer, {}}, 3, "<nil>", nil, "x: asked 3 times, because it was late\n"},
		"late, refused":   {[]answer{late, {false, failure}, {}}, 2, "refused", failure, "x: asked 2 times, because it was late\n"},
		"just in time":    {[]answer{late, late, late, late, {}}, 5, "<nil>", nil, "x: asked 5 times, because it was late\n"},
		"always late":     {[]answer{late}, 5, "x: late each of 5 times: too late", lateness, ""},
		"always too late": {[]answer{lateAnswer}, 5, "x: late each of 5 times", nil, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			asked, logged := 0, ""
			got, err := AskAgain(func(format string, arguments ...any) { logged += fmt.Sprintf(format, arguments...) + "\n" }, "x", func() (int, bool, error) {
				asked++
				now := c.answers[min(asked, len(c.answers))-1]
				return asked, now.late, now.err
			})
			if got != c.asked || asked != c.asked || fmt.Sprint(err) != c.want || !errors.Is(err, c.err) && c.err != nil || logged != c.logged {
				t.Errorf("%s: asked %d times, answer %d, %v, logged %q; want %d times, %s, %q", name, asked, got, err, logged, c.asked, c.want, c.logged)
			}
		})
	}
}
