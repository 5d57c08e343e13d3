package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A parameter is a kernel parameter below /proc/sys, and its value.
type parameter struct{ path, value string }

// parameters are the guest's own.
var parameters = []parameter{
	// Linux' own default is a choice of its build: BPF is for those who have CAP_BPF
	// (Documentation/admin-guide/sysctl/kernel.rst).
	{"kernel/unprivileged_bpf_disabled", "2"},
	// Memory is not made contiguous before somebody needs it: to look whether it is wakes a VM
	// twice a second, for as long as it lives (Documentation/admin-guide/sysctl/vm.rst).
	{"vm/compaction_proactiveness", "0"},
}

// setParameters sets the guest's own parameters and the host's, which are words of the kernel's
// command line. The kernel would set them itself by "sysctl.fs.x=1", but mounts proc for that,
// and waits for its timer to unmount it. note gets what is left out.
func setParameters(proc string, note func(line string)) error {
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return err
	}
	for _, p := range append(hostParameters(string(line)), parameters...) {
		file, err := os.OpenFile(filepath.Join(proc, "sys", p.path), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			// As with the kernel's own words. What the guest needs, checkKernel looks for.
			note("this kernel has no parameter " + p.path)
			continue
		}
		if err == nil {
			_, err = file.WriteString(p.value)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return fmt.Errorf("setting the guest's kernel parameter %s to %q: %w", p.path, p.value, err)
		}
	}
	return nil
}

// hostParameters are those that a kernel's command line has for the agent.
func hostParameters(line string) (host []parameter) {
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		if name, found := strings.CutPrefix(name, api.Sysctl); found {
			host = append(host, parameter{strings.ReplaceAll(name, ".", "/"), value})
		}
	}
	return host
}
