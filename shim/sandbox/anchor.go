package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// Anchor starts the process that stands for a container on the host. By its pid
// clients find the container's network namespace, as CNI does, and its root file
// system (proc_pid_root(5)), as nerdctl cp does. root is the host's directory on
// which that is mounted; empty for a pod, which has none. The caller ends it before it
// unmounts that.
func (s *Sandbox) Anchor(root string) (*jail.Process, error) {
	spec := jail.Spec{
		Program:         filepath.Join(s.kit, anchorFile),
		Root:            &jail.Root{Dir: root, Whole: true},
		Capabilities:    []uintptr{},
		NoNewPrivileges: true,
		Limits:          []jail.Limit{{Resource: unix.RLIMIT_CORE, Value: 0}},
		Cooperates:      true,
		Filter:          true,
	}
	if root == "" {
		spec.Root = &jail.Root{Dir: filepath.Join(s.bundle, treesDir)}
	}
	spec.InNetwork(s.vmNetwork.Namespace)
	process, err := jail.Start(spec)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the guest kit is incomplete, install it with \"make install\": %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	return process, err
}
