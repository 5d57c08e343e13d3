package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// A Process is a placeholder: a process of the host that stands for a container or a pod.
type Process interface {
	// Pid is its process id.
	Pid() int
	// Exited is closed when it has ended and was waited for.
	Exited() <-chan struct{}
	// End gives it a while to end by itself, then kills it, and waits.
	End(grace time.Duration)
}

// Placeholders start the processes that stand for containers. By its pid clients find the
// container's network namespace, as CNI does, and its root file system (proc_pid_root(5)),
// as nerdctl cp does.
type Placeholders struct {
	prepared  *Prepared
	namespace *os.File // the network's; nil is the host's
}

func (p *Prepared) placeholders(network hostNetwork) Placeholders {
	return Placeholders{p, network.vm.Namespace}
}

// ForContainer starts one for a container whose root file system is shared with a tag, or is
// not on this host if that is empty. The caller ends it before it removes that share.
func (p Placeholders) ForContainer(tag string) (Process, error) {
	if tag == "" {
		return p.prepared.platform.Placeholder(p.prepared.placeholder, p.empty(), p.namespace)
	}
	return p.prepared.platform.Placeholder(p.prepared.placeholder, &jail.Root{
		Dir: filepath.Join(p.prepared.Trees.Pool(), tag), Whole: true,
	}, p.namespace)
}

// ForPod starts one for a pod, which has no root file system. It ends with the sandbox at
// the latest.
func (p Placeholders) ForPod() (Process, error) {
	process, err := p.prepared.platform.Placeholder(p.prepared.placeholder, p.empty(), p.namespace)
	if err != nil {
		return nil, err
	}
	p.prepared.undo.Add(func() error {
		process.End(0)
		return nil
	})
	return process, nil
}

// empty is a root that has nothing.
func (p Placeholders) empty() *jail.Root {
	return &jail.Root{Dir: p.prepared.dir}
}

// startPlaceholder starts one, in a jail that leaves it no rights.
func startPlaceholder(program jail.Program, root *jail.Root, namespace *os.File) (Process, error) {
	spec := jail.Spec{
		Program:         program.Path,
		Opened:          program.File,
		Root:            root,
		Capabilities:    []uintptr{},
		NoNewPrivileges: true,
		Limits:          []jail.Limit{{Resource: unix.RLIMIT_CORE, Value: 0}},
		Cooperates:      true,
		Filter:          true,
	}
	spec.InNetwork(namespace)
	process, err := jail.Start(spec)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the guest kit is incomplete, install it with \"make install\": %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	return process, nil
}
