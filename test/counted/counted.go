// Package counted tells tests what the shim's code has counted (shim/count).
package counted

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

// Begin has this process count in a file of the test's own. What it returns tells what was counted
// since, but phases, in the order of their names: "exits container lost 1, overruns 1".
func Begin(t testing.TB) func() string {
	t.Helper()
	dir := t.TempDir()
	if err := count.Open(dir); err != nil {
		t.Fatal(err)
	}
	return func() string {
		t.Helper()
		counts, err := count.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for name, counters := range map[string][]count.Counter{
			"starts": counts.Starts, "refusals": counts.Refusals, "exits": counts.Exits, "streams": counts.Streams,
			"overruns": {{Count: counts.Overruns}}, "violations": {{Count: counts.Violations}},
		} {
			for _, c := range counters {
				if c.Count > 0 {
					found = append(found, strings.Join(append([]string{name}, append(slices.Clone(c.Labels), fmt.Sprint(c.Count))...), " "))
				}
			}
		}
		slices.Sort(found)
		return strings.Join(found, ", ")
	}
}
