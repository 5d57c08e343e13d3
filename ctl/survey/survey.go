// Package survey tells which sandboxes are on this host, and what they use of it. It reads
// what is there first: containerd's bundles, the shims' records in them, and /proc. Each shim
// is then asked for the states of its containers, all at once and with a limit, so that one
// that hangs delays nobody.
package survey

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Host is where sandboxes are looked for.
type Host struct {
	// State is containerd's directory for what goes with a reboot.
	State string
	// Proc is where the host's processes are, proc(5).
	Proc string
	// Patience is how long a shim may take to answer.
	Patience time.Duration
	// Hung tells of the shim with an address that it is known to hang, and not asked; nil if
	// all are asked.
	Hung func(address string) bool
}

// A State is what a sandbox is in.
type State string

// The states.
const (
	Starting State = "starting" // there is no VMM yet
	Running  State = "running"
	Stopped  State = "stopped" // the VM has ended, and its containers are not deleted yet
	Hung     State = "hung"    // the shim does not answer
	Lost     State = "lost"    // there is no shim; containerd has yet to clean up
)

// A Sandbox is a VM, or what is left of one, with the containers in it.
type Sandbox struct {
	Namespace string `json:"namespace"`
	// ID is that of the container that the VM was made for, or of the pod.
	ID    string `json:"id"`
	State State  `json:"state"`
	// Driver is empty, and the size 0, if a shim of an older version has not noted them.
	Driver string `json:"driver,omitempty"`
	CPUs   int    `json:"cpus,omitempty"`
	Memory int64  `json:"memory,omitempty"` // of the guest, in bytes
	// Started is when the VMM was; nil if there is none.
	Started *time.Time `json:"started,omitempty"`
	VMM     *Process   `json:"vmm,omitempty"`
	Shim    *Process   `json:"shim,omitempty"`
	// Containers are those in it, by their ids.
	Containers []Container `json:"containers"`

	Bundle  string `json:"bundle"`
	Address string `json:"address,omitempty"` // of the shim
	Cgroup  string `json:"cgroup,omitempty"`  // as the spec names it
	Network string `json:"network,omitempty"` // the path of its network namespace
	// Spare is the directory of the spare that the VM was; empty if it was none.
	Spare string `json:"spare,omitempty"`
	// Forgotten says that containerd does not know it any more: its bundle is gone, and nobody
	// ends it but who ends its shim.
	Forgotten bool `json:"forgotten,omitempty"`
}

// errHung is about a shim that does not answer in time.
func (s Sandbox) errHung(patience time.Duration) error {
	return fmt.Errorf("the shim of %s/%s does not answer within %s", s.Namespace, s.ID, patience)
}

// ErrLost is about a shim that is not there.
func (s Sandbox) ErrLost() error {
	return fmt.Errorf("the shim of %s/%s has ended or was killed", s.Namespace, s.ID)
}

// errOlder is about a shim that cannot do what it is asked for.
func (s Sandbox) errOlder(how string) error {
	return fmt.Errorf("the shim of %s/%s is of an older msb, which %s", s.Namespace, s.ID, how)
}

// A Container is one in a sandbox.
type Container struct {
	ID string `json:"id"`
	// State is containerd's word for it, as the shim answers; empty if it does not.
	State string `json:"state,omitempty"`
}

// Living is how many of the containers run or are paused, as the shim answers.
func (s Sandbox) Living() (n int) {
	for _, c := range s.Containers {
		if c.lives() {
			n++
		}
	}
	return n
}

func (c Container) lives() bool { return c.State == "running" || c.State == "paused" }

// A Process is one of the host's.
type Process struct {
	Pid  int    `json:"pid"`
	Name string `json:"name"`
	// Resident is the memory that it has, in bytes. What it shares counts.
	Resident int64 `json:"resident"`
	// CPU is the processor time that it has used, Parent the process that has started it.
	CPU    time.Duration `json:"-"`
	Parent int           `json:"-"`

	start int64 // in ticks since boot
}

// Find returns the sandboxes, ordered by namespace and id.
func (h Host) Find(ctx context.Context) ([]Sandbox, error) {
	stat, err := os.Stat(h.State)
	if err != nil {
		return nil, fmt.Errorf("containerd's state directory: %w", err)
	}
	if !stat.IsDir() {
		return nil, fmt.Errorf("containerd's state directory: %s is no directory: name it with --state", h.State)
	}
	found, err := h.bundles()
	if err != nil {
		return nil, err
	}
	boot := h.bootTime()
	var wg sync.WaitGroup
	sandboxes := make([]Sandbox, len(found))
	for i, g := range found {
		wg.Go(func() { sandboxes[i] = h.look(ctx, g, boot) })
	}
	forgotten := h.forgotten(boot)
	remembered := make([]bool, len(forgotten))
	for i := range forgotten {
		wg.Go(func() { remembered[i] = h.remember(ctx, &forgotten[i]) })
	}
	wg.Wait()
	for i, s := range forgotten {
		if remembered[i] {
			sandboxes = append(sandboxes, s)
		}
	}
	slices.SortStableFunc(sandboxes, func(a, b Sandbox) int { // of one name, the one that containerd knows is the first
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.ID, b.ID))
	})
	return sandboxes, nil
}

// look is one sandbox, from its bundles.
func (h Host) look(ctx context.Context, g group, boot time.Time) Sandbox {
	owner := g.owner()
	s := Sandbox{Namespace: owner.namespace, ID: owner.id, Bundle: owner.dir, Address: g.address, Containers: g.containers()}
	record := owner.record
	if record != nil {
		s.Driver, s.CPUs, s.Memory, s.Cgroup, s.Network = record.Driver, record.CPUs, record.Memory, record.CgroupsPath, record.Network
		s.Spare = record.Spare
		s.Shim = h.process(record.Shim)
		if vmm := h.process(record.Pid); vmm != nil && fmt.Sprint(vmm.start) == record.Start {
			started := boot.Add(ticks(vmm.start))
			s.VMM, s.Started = vmm, &started
		}
	}
	switch err := h.askUnlessHung(ctx, &s); {
	case hangs(err):
		s.State = Hung
	case err != nil:
		s.State = Lost
	case s.VMM != nil, record == nil && slices.ContainsFunc(s.Containers, Container.lives):
		s.State = Running
	case record != nil && record.Pid == 0:
		s.State = Starting
	default:
		s.State = Stopped
	}
	return s
}

// askUnlessHung asks a shim that is not known to hang.
func (h Host) askUnlessHung(ctx context.Context, s *Sandbox) error {
	if h.Hung != nil && h.Hung(s.Address) {
		return context.DeadlineExceeded
	}
	return h.ask(ctx, s)
}

// An Inspection is all that is known of a sandbox.
type Inspection struct {
	Sandbox
	Processes []Process `json:"processes"`
	Shares    []Share   `json:"shares"`
}

// Inspect looks closer at a sandbox.
func (h Host) Inspect(s Sandbox) Inspection {
	return Inspection{s, append([]Process{}, h.Processes(s)...), append([]Share{}, h.Shares(s)...)}
}

// Pick is the sandbox with an id, or with a container that has it, or the beginning of one
// that no other has. namespace is containerd's; empty is any.
func Pick(sandboxes []Sandbox, namespace, id string) (Sandbox, error) {
	var matches []Sandbox
	var names []string
	exact := false
	for _, s := range sandboxes {
		if namespace != "" && s.Namespace != namespace || s.shadowed(sandboxes) {
			continue
		}
		for _, known := range s.ids() {
			if !strings.HasPrefix(known, id) || exact && known != id {
				continue
			}
			if known == id && !exact {
				exact, matches, names = true, nil, nil
			}
			if !slices.ContainsFunc(matches, s.is) {
				matches = append(matches, s)
				names = append(names, s.Namespace+"/"+known)
			}
		}
	}
	switch len(matches) {
	case 0:
		return Sandbox{}, fmt.Errorf("no sandbox or container of msb has an id that begins with %q", id)
	case 1:
		return matches[0], nil
	}
	return Sandbox{}, fmt.Errorf("%q is the beginning of several ids, %s: give more of it, or the namespace", id, strings.Join(names, " and "))
}

// shadowed tells whether it is forgotten, and containerd has another of its name.
func (s Sandbox) shadowed(all []Sandbox) bool {
	return s.Forgotten && slices.ContainsFunc(all, func(other Sandbox) bool {
		return !other.Forgotten && other.Namespace == s.Namespace && other.ID == s.ID
	})
}

// is tells whether both are one sandbox.
func (s Sandbox) is(other Sandbox) bool {
	return s.Bundle == other.Bundle && (s.Shim == nil || other.Shim == nil || s.Shim.Pid == other.Shim.Pid)
}

// ids are those by which a sandbox is known, its own first.
func (s Sandbox) ids() []string {
	ids := []string{s.ID}
	for _, c := range s.Containers {
		if c.ID != s.ID {
			ids = append(ids, c.ID)
		}
	}
	return ids
}
