package survey

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// A containerd that is started while it cannot find the runtime removes the bundles of its VMs, and
// knows nothing of them any more. Shim and VM go on, and nobody ends them. What is left to know them by
// is the shim's process: it works in the directory that was its bundle.

// shimProgram is the name of the shim's file.
const shimProgram = "containerd-shim-msb-v2"

// forgotten are the sandboxes that containerd has forgotten, as far as /proc tells: their shims are yet
// to be asked.
func (h Host) forgotten(boot time.Time) (sandboxes []Sandbox) {
	state, err := filepath.EvalSymlinks(h.State) // as the kernel names it
	if err != nil {
		return nil
	}
	dirs, _ := filepath.Glob(filepath.Join(glob(h.Proc), "[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || h.program(pid) != shimProgram {
			continue
		}
		bundle, err := os.Readlink(filepath.Join(dir, "cwd"))
		if err != nil {
			continue
		}
		if s, ok := removedBundle(state, bundle); ok {
			s.Shim = h.process(pid)
			h.lookBelow(&s, boot)
			s.Address = h.addressOf(pid)
			sandboxes = append(sandboxes, s)
		}
	}
	return sandboxes
}

// removedBundle is the sandbox whose bundle was at a path, as the kernel tells the directory of a process
// (proc_pid_cwd(5)). containerd gives a bundle a dot before its name and then removes it (core/runtime/v2,
// atomicDelete); no id begins with one.
func removedBundle(state, path string) (s Sandbox, ok bool) {
	path, gone := strings.CutSuffix(path, " (deleted)")
	below, found := strings.CutPrefix(path, state+"/")
	parts := strings.Split(below, "/")
	if !gone || !found || len(parts) != 3 || !slices.Contains([]string{taskDir, sandboxDir}, parts[0]) {
		return Sandbox{}, false
	}
	s = Sandbox{Namespace: parts[1], ID: strings.TrimPrefix(parts[2], "."), Bundle: path + " (deleted)", Forgotten: true, Containers: []Container{}}
	if parts[0] == taskDir {
		s.Containers = append(s.Containers, Container{ID: s.ID})
	}
	return s, true
}

// lookBelow finds a sandbox's VMM among the processes of its shim.
func (h Host) lookBelow(s *Sandbox, boot time.Time) {
	for _, p := range h.Processes(*s) {
		program := h.program(p.Pid)
		switch {
		case program == "msb-krun":
			s.Driver = krun.Name
		case strings.HasPrefix(program, "qemu-system-"):
			s.Driver = qemu.Name
		default:
			continue
		}
		started := boot.Add(ticks(p.start))
		s.VMM, s.Started = &p, &started
	}
}

// shimsSocket is how the file of a shim's socket is called: by a sum (containerd, pkg/shim,
// CreateSocketAddress).
var shimsSocket = regexp.MustCompile("/[0-9a-f]{64}$")

// addressOf is where the shim of a process listens; empty if it does not.
func (h Host) addressOf(pid int) string {
	dir := filepath.Join(h.Proc, strconv.Itoa(pid))
	own := map[string]bool{}
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		of, _ := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		if inode, is := strings.CutPrefix(of, "socket:["); is {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	sockets, err := os.Open(filepath.Join(dir, "net", "unix")) // proc_net_unix(5)
	if err != nil {
		return ""
	}
	defer sockets.Close()
	for lines := bufio.NewScanner(sockets); lines.Scan(); {
		const flags, inode, path = 3, 6, 7
		const listens = "00010000" // __SO_ACCEPTCON of linux/net.h
		fields := strings.Fields(lines.Text())
		if len(fields) == path+1 && fields[flags] == listens && own[fields[inode]] && shimsSocket.MatchString(fields[path]) {
			return "unix://" + fields[path]
		}
	}
	return ""
}

// remember asks the shim of a forgotten sandbox, and tells whether there is something of it. A shim that
// ends after its last container has no bundle for a moment, either: it has no VM any more, and knows no
// container.
func (h Host) remember(ctx context.Context, s *Sandbox) bool {
	err := h.askUnlessHung(ctx, s)
	known := slices.ContainsFunc(s.Containers, func(c Container) bool { return c.State != "" })
	switch {
	case err != nil:
		s.State = Hung
	case s.VMM != nil:
		s.State = Running
	default:
		s.State = Stopped
	}
	return s.VMM != nil || known || hangs(err)
}

// hangs tells whether a shim is there that does not answer in time.
func hangs(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.EAGAIN) // more connections than it takes
}
