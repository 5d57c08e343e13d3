package network

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// ofProcess is a path that names a namespace by a process in it, as Docker and nerdctl do
// for --network container:NAME.
var ofProcess = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/proc/[^/]+/(task/[^/]+/)?ns/net$`) })

// refuseOthers refuses a namespace in which processes of others live: they would lose their
// network to the VM. A namespace that CNI has made for a pod or a container has none. One
// with a name of its own may have a server of the host's that listens on its loopback: that
// loses nothing, and whether it has more is not known, so there is a warning.
func refuseOthers(namespace *os.File, path string) error {
	pid, contained, err := findOther("/proc", namespace)
	switch {
	case err != nil:
		return fmt.Errorf("looking for processes in the network namespace %s: %w", path, err)
	case pid == 0:
		return nil
	case contained || ofProcess().MatchString(path) || isHosts(namespace):
		return fmt.Errorf("the network namespace %s has processes of others in it (%d is one), which a microVM in it would take the network from: "+
			"give the container a network of its own, and reach the other by its address: %w", path, pid, errdefs.ErrFailedPrecondition)
	}
	log.L.Warnf("process %d of the host is in the network namespace %s: from now on the packets of its interfaces are the microVM's, and the process has its loopback", pid, path)
	return nil
}

// isHosts tells the namespace of this process, the host's.
func isHosts(namespace *os.File) bool {
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return false
	}
	given, err := namespace.Stat()
	return err == nil && os.SameFile(own, given)
}

// findOther finds a process in a network namespace, preferably one of a container, that is
// one with a PID namespace that is not the shim's; 0 if there is none. What ends meanwhile is in none.
func findOther(proc string, namespace *os.File) (found int, contained bool, err error) {
	var wanted, own unix.Stat_t
	if err := unix.Fstat(int(namespace.Fd()), &wanted); err != nil {
		return 0, false, err
	}
	if err := unix.Stat("/proc/self/ns/pid", &own); err != nil {
		return 0, false, err
	}
	dir, err := os.Open(proc)
	if err != nil {
		return 0, false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, false, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if inside, err := isIn(filepath.Join(proc, name, "ns/net"), wanted); err != nil || !inside {
			continue
		}
		ofHost, err := isIn(filepath.Join(proc, name, "ns/pid"), own)
		if err != nil {
			continue
		}
		if !ofHost {
			return pid, true, nil
		}
		found = pid
	}
	return found, false, nil
}

// isIn tells whether a file of a process's ns directory is a namespace. That of one that has
// ended cannot be had.
func isIn(path string, namespace unix.Stat_t) (bool, error) {
	var stat unix.Stat_t
	err := unix.Stat(path, &stat)
	return err == nil && stat.Dev == namespace.Dev && stat.Ino == namespace.Ino, err
}
