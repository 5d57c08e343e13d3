package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxIOPriority is the lowest priority of a class of I/O scheduling (ioprio_set(2)).
const maxIOPriority = 7

// planProcess is a process for the guest. What runc refuses of it and crun would pass over is
// refused; who says whose process it is.
func planProcess(who string, asked specs.Process) (specs.Process, error) {
	if err := checkProcess(who, &asked); err != nil {
		return specs.Process{}, err
	}
	// Labels of the host's security modules mean nothing to the guest's kernel.
	asked.ApparmorProfile, asked.SelinuxLabel = "", ""
	asked.Env = environment(asked.Env)
	return asked, nil
}

func checkProcess(who string, process *specs.Process) error {
	switch {
	case len(process.Args) == 0:
		return invalid("%s has no command: give it process.args", who)
	case !path.IsAbs(process.Cwd):
		return invalid("%s has the working directory %q, which is no absolute path: correct process.cwd", who, shorten(process.Cwd))
	case process.IOPriority != nil && (process.IOPriority.Priority < 0 || process.IOPriority.Priority > maxIOPriority):
		return invalid("%s has the I/O priority %d, and there are 0 to %d: correct process.ioPriority", who, process.IOPriority.Priority, maxIOPriority)
	}
	for i, variable := range process.Env {
		switch name, _, found := strings.Cut(variable, "="); {
		case !found: // its text may be a secret
			return invalid("%s has an environment variable that is not NAME=VALUE, number %d: correct process.env", who, i+1)
		case name == "":
			return invalid("%s has an environment variable without a name, number %d: correct process.env", who, i+1)
		}
	}
	return nil
}

// environment is an environment as runc leaves it: of a variable that is there more than once
// the last one holds, where it is, and an empty HOME is none, for which the runtime looks in the
// container's /etc/passwd.
func environment(env []string) []string {
	seen := make(map[string]bool)
	var kept []string
	for _, variable := range slices.Backward(env) {
		name, value, _ := strings.Cut(variable, "=")
		if seen[name] {
			continue
		}
		seen[name] = true
		if name != "HOME" || value != "" {
			kept = append(kept, variable)
		}
	}
	slices.Reverse(kept)
	return kept
}
