package metrics

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// A kind is what a process of a sandbox does.
type kind string

// The kinds. What is other is for a container, such as the process that stands for it, and
// ends with it: its processor time is not told, because the sum would fall.
const (
	vmm        kind = "vmm"
	shim       kind = "shim"
	fileServer kind = "file_server"
	other      kind = "other"
)

// fileServers are the names of their processes. A process can change its name, to one of
// another kind's at most.
var fileServers = map[string]bool{"virtiofsd": true, "msb-shield": true}

// A use is what processes have, in bytes, and what they have used of processors.
type use struct {
	anonymous, file, shared int64
	cpu                     time.Duration
}

func (u use) resident() int64 { return u.anonymous + u.file + u.shared }

func (u use) plus(v use) use {
	return use{u.anonymous + v.anonymous, u.file + v.file, u.shared + v.shared, u.cpu + v.cpu}
}

// uses are what the kinds of a sandbox's processes have. What a file server maps of the guest's
// memory is the VMM's, and counted once.
func (s Source) uses(b survey.Sandbox) map[kind]use {
	uses := map[kind]use{}
	add := func(k kind, p survey.Process) {
		u, found := s.use(p)
		if !found {
			return // it has ended meanwhile
		}
		if k != vmm {
			u.shared = 0
		}
		uses[k] = uses[k].plus(u)
	}
	if b.VMM != nil {
		add(vmm, *b.VMM)
	}
	if !hasShim(b) {
		return uses
	}
	add(shim, *b.Shim)
	for _, p := range s.Processes(b) {
		switch {
		case b.VMM != nil && p.Pid == b.VMM.Pid:
		case fileServers[p.Name]:
			add(fileServer, p)
		default:
			add(other, p)
		}
	}
	return uses
}

// hasShim tells whether the process that a record calls the shim is it. One that answers, or
// hangs, or whose VMM runs, has not ended: nobody else has its number.
func hasShim(b survey.Sandbox) bool {
	return b.Shim != nil && (b.State != survey.Lost || b.VMM != nil && b.VMM.Parent == b.Shim.Pid)
}

// use is what a process has (proc_pid_status(5)). That is not its proportional part of what it
// shares, for which the kernel goes through all its pages (docs/decisions/0104).
func (s Source) use(p survey.Process) (u use, found bool) {
	status, err := os.ReadFile(filepath.Join(s.Proc, strconv.Itoa(p.Pid), "status"))
	if err != nil {
		return u, false
	}
	fields := map[string]*int64{"RssAnon": &u.anonymous, "RssFile": &u.file, "RssShmem": &u.shared}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if field := fields[name]; field != nil {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			*field, found = kib<<10, true
		}
	}
	u.cpu = p.CPU
	return u, found
}
