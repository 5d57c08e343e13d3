package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
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
	if _, err := (Owner{h.Dir, Namespace}).remove(); err != nil {
		fmt.Fprintln(os.Stderr, "removing what the tests have made:", err)
	}
}

// lockName is the file in a Host's directory that its process holds a lock on, as long as
// it lives. It has the name of containerd's namespace in it.
const lockName = "lock"

// lock marks the directory as one of a process that lives, until that ends.
func (h *Host) lock() error {
	name := filepath.Join(h.Dir, lockName)
	// Who looks for directories of the dead finds the file with its lock, or none.
	file, err := os.CreateTemp(h.Dir, lockName)
	if err != nil {
		return err
	}
	h.alive = file
	if _, err := file.WriteString(Namespace); err != nil {
		return err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return os.NewSyscallError("flock", err)
	}
	return os.Rename(file.Name(), name)
}

// An Owner is a process that has a containerd for tests.
type Owner struct {
	// Dir is the containerd's, Namespace its namespace.
	Dir, Namespace string
}

// Has tells whether a process is one of the containerd's shims, or runs under one, or has lost its
// shim and is in a control group of one of the containers.
func (o Owner) Has(pid int) bool {
	if address := containerdOf(pid); address != "" {
		return address == filepath.Join(o.Dir, socketName)
	}
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return o.hasGroup(string(groups))
}

// hasGroup tells whether one of the control groups that /proc/PID/cgroup names is below one of
// the owner's.
func (o Owner) hasGroup(groups string) bool {
	for line := range strings.Lines(groups) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), ":/")
		names := strings.Split(path, "/")
		if slices.Contains(names, o.Namespace) || slices.Contains(names, filepath.Base(o.Dir)) {
			return true
		}
	}
	return false
}

// processes are the containerd, its shims, what runs under them, and its clients: they have a
// file of the directory among their arguments.
func (o Owner) processes() (own []int) {
	file := "\x00" + o.Dir + "/"
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		if line, _ := os.ReadFile(name); strings.Contains(string(line), file) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				own = append(own, pid)
			}
		}
	}
	for pid := range Processes() {
		if o.Has(pid) {
			own = append(own, pid)
		}
	}
	return own
}

// remove ends these processes by force, and removes the directory and the control groups of
// the namespace. It returns how many processes it had to end.
func (o Owner) remove() (processes int, err error) {
	seen := make(map[int]bool)
	Eventually(func() bool {
		own := o.processes()
		for _, pid := range own {
			_ = unix.Kill(pid, unix.SIGKILL)
			seen[pid] = true
		}
		return len(own) == 0
	})
	for _, group := range []string{o.Namespace, filepath.Base(o.Dir)} { // the latter is around pods
		removeGroups(group)
	}
	return len(seen), Remove(o.Dir)
}

// Detach takes away what is mounted below a directory in this process's mount namespace.
func Detach(dir string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !strings.HasPrefix(m.Mountpoint, dir+"/"), false })
	for _, m := range slices.Backward(mounts) { // the last is on top
		// One that was the copy of another has gone with it.
		if e := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); e != nil && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, &os.PathError{Op: "unmount", Path: m.Mountpoint, Err: e})
		}
	}
	return err
}

// Remove removes a directory, but nothing of what is mounted below it, which may be the host's.
func Remove(dir string) error {
	if err := Detach(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// eachOwner calls a function for each on the whole machine that lives or was killed. One
// that was killed is nobody else's meanwhile.
func eachOwner(do func(o Owner, lives bool)) {
	locks, _ := filepath.Glob(filepath.Join(hostsDir(), dirPattern, lockName))
	for _, name := range locks {
		file, err := os.Open(name)
		if err != nil {
			continue // it has just gone
		}
		namespace, _ := os.ReadFile(name)
		lives := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
		do(Owner{Dir: filepath.Dir(name), Namespace: string(namespace)}, lives)
		file.Close()
	}
}

// Owners are those that live now, on the whole machine.
func Owners() (living []Owner) {
	eachOwner(func(o Owner, lives bool) {
		if lives {
			living = append(living, o)
		}
	})
	return living
}

// sweep removes what tests have left that were killed, and names it. What belongs to a
// process that lives is not touched.
func sweep() {
	eachOwner(func(o Owner, lives bool) {
		if lives {
			return
		}
		ended, err := o.remove()
		fmt.Fprintf(os.Stderr, "tests that were killed had left %s and %d processes: removed (%v)\n", o.Dir, ended, err)
	})
}

// removeGroups removes a control group and those below it, in version 2 and in each
// hierarchy of 1.
func removeGroups(path string) {
	for _, top := range groupDirs(path) {
		var groups []string
		_ = filepath.WalkDir(top, func(dir string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, dir)
			}
			return nil
		})
		for _, dir := range slices.Backward(groups) {
			Eventually(func() bool { // what is in it takes a moment to end
				err := unix.Rmdir(dir)
				if err == nil || errors.Is(err, unix.ENOENT) {
					return true
				}
				processes, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				for _, word := range strings.Fields(string(processes)) {
					if pid, err := strconv.Atoi(word); err == nil {
						_ = unix.Kill(pid, unix.SIGKILL)
					}
				}
				return false
			})
		}
	}
}
