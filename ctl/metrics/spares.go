package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A waiting is the VMs of a size that wait.
type waiting struct {
	count  int
	memory int64
}

// spareDir is the name of a spare's directory: its size and its process (package spare).
var spareDir = regexp.MustCompile(`^(\d+)x(\d+)-(\d+)$`)

// waiting are the VMs that wait to be used. Those that boot yet, and what dead ones have left,
// are not among them.
func (s Source) waiting() map[spec.Size]waiting {
	all := map[spec.Size]waiting{}
	dirs, _ := filepath.Glob(filepath.Join(s.Spares, "*", "*"))
	for _, dir := range dirs {
		match := spareDir.FindStringSubmatch(filepath.Base(dir))
		if match == nil || !exists(dir, "waiting") || !exists(dir, "socket") {
			continue
		}
		var size spec.Size
		size.CPUs, _ = strconv.Atoi(match[1])
		size.Memory, _ = strconv.ParseInt(match[2], 10, 64)
		pid, _ := strconv.Atoi(match[3])
		if !s.isSpare(pid) {
			continue
		}
		w := all[size]
		w.count++
		w.memory += s.memory(pid)
		all[size] = w
	}
	return all
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// isSpare tells whether a process is a spare, by its arguments: another may have the number of
// one that was killed.
func (s Source) isSpare(pid int) bool {
	arguments, _ := os.ReadFile(filepath.Join(s.Proc, strconv.Itoa(pid), "cmdline"))
	return slices.ContainsFunc(bytes.Split(arguments, []byte{0}), func(argument []byte) bool { return string(argument) == "spare" })
}

// memory is what a process and those that it has started have. Shared memory is the guest's,
// which all of them map.
func (s Source) memory(pid int) (bytes int64) {
	processes := s.Descendants(pid)
	if p := s.Process(pid); p != nil {
		processes = append(processes, *p)
	}
	var shared int64
	for _, p := range processes {
		u, _ := s.use(p)
		bytes += u.anonymous + u.file
		shared = max(shared, u.shared)
	}
	return bytes + shared
}
