package shell

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxPasses bounds the looks for processes that are started while others are killed.
const maxPasses = 100

// kill kills the leader of a session and all that is in it: the jobs of a shell have groups of their
// own. What has a session of its own is passed over.
func kill(session int) {
	_ = unix.Kill(-session, unix.SIGKILL)
	killed := make(map[int]bool)
	for pass, more := 0, true; more && pass < maxPasses; pass++ {
		more = false
		for _, pid := range members(session) {
			if !killed[pid] {
				_ = unix.Kill(pid, unix.SIGKILL)
				killed[pid], more = true, true
			}
		}
	}
}

// members are the processes of a session.
func members(session int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // its only error is of the pattern
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && sessionOf(stat) == session {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sessionOf is the sixth field of a process's stat file (proc_pid_stat(5)); 0 if it has none. The
// second, a name in parentheses, may have anything in it.
func sessionOf(stat []byte) int {
	var state string
	var parent, group, session int
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	if _, err := fmt.Sscan(string(rest), &state, &parent, &group, &session); err != nil {
		return 0
	}
	return session
}
