package harness

import (
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
)

// Mounts are those that a process sees in its mount namespace, the ones on top last. A filter leaves
// some out; nil leaves out none.
func Mounts(pid int, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return mountinfo.GetMountsFromReader(file, filter)
}
