package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// hosts are those that this process has started and not stopped.
type hosts struct {
	mu      sync.Mutex
	running []*Host // guarded by mu
}

var started hosts

func (s *hosts) add(h *Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = append(s.running, h)
}

func (s *hosts) remove(h *Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = slices.DeleteFunc(s.running, func(other *Host) bool { return other == h })
}

// abort ends all of them, wherever the tests are.
func (s *hosts) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.running {
		h.abort()
	}
}

// abort ends containerd and what runs under it by force, and removes what that leaves on
// the host. Mounts go with the mount namespace of the tests.
func (h *Host) abort() {
	if h.containerd == nil || h.containerd.Process == nil {
		return
	}
	_ = h.containerd.Process.Kill()
	Eventually(func() bool {
		own := h.ownProcesses()
		for _, pid := range own {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(own) == 0
	})
	for _, group := range []string{Namespace, h.PodsCgroup()} {
		removeGroups(group)
	}
	if err := os.RemoveAll(h.Dir); err != nil {
		fmt.Fprintln(os.Stderr, "removing what the tests have made:", err)
	}
}

// ownProcesses are this containerd's shims, and what runs under them.
func (h *Host) ownProcesses() (own []int) {
	for pid := range Processes() {
		if containerdOf(pid) == h.Address() {
			own = append(own, pid)
		}
	}
	return own
}

// removeGroups removes a control group and those below it, in version 2 and in each
// hierarchy of 1.
func removeGroups(path string) {
	one, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", path))
	for _, top := range append(one, filepath.Join("/sys/fs/cgroup", path)) {
		var groups []string
		_ = filepath.WalkDir(top, func(dir string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, dir)
			}
			return nil
		})
		for _, dir := range slices.Backward(groups) {
			Eventually(func() bool { // the kernel takes a moment to see that a group is empty
				err := unix.Rmdir(dir)
				return err == nil || errors.Is(err, unix.ENOENT)
			})
		}
	}
}
