// Package kvm tells whether /dev/kvm can really run a guest.
//
// That the device opens, or that it creates a VM, proves nothing: a host whose
// KVM is paravirtual only emulates an ordinary guest instruction by instruction
// and never boots it. So the probe runs a guest: a loop of known length, which
// real hardware virtualisation finishes within a few milliseconds.
package kvm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Device is the character device of the kernel's KVM API
// (Documentation/virt/kvm/api.rst).
const Device = "/dev/kvm"

// loopBudget is the longest time in which real hardware, even nested in an
// emulated machine, runs the probe's 100,000 iterations: half a millisecond there.
// Emulation of each instruction took over 120 ms. What a busy host does meanwhile is not
// counted, but where that is a VM itself it cannot know how long its own host has let it wait
// (26 ms at best was seen), so the loop runs for loopPatience, until it is fast once: one that
// is emulated never is.
const (
	loopBudget   = 20 * time.Millisecond
	loopPatience = 500 * time.Millisecond
)

// Check returns nil when this host's KVM runs guests at native speed, and
// otherwise an error of class errdefs.ErrFailedPrecondition that says why not.
func Check() error {
	if err := checkCPU(cpuInfo); err != nil {
		return err
	}
	took, err := runLoop()
	if err != nil {
		return explain(err)
	}
	if took > loopBudget {
		return fmt.Errorf("%s emulates its guests (a loop of %d took %v): it needs a CPU with hardware virtualisation: %w",
			Device, loopCount, took.Round(time.Millisecond), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// remedies are what helps against errors of the device.
var remedies = map[unix.Errno]string{
	unix.ENOENT: "load the module kvm_intel or kvm_amd, and enable virtualisation in the firmware",
	unix.EACCES: "give containerd access to the device: run it as root and allow the device to its control group",
	unix.EPERM:  "give containerd access to the device: run it as root and allow the device to its control group",
	unix.EBUSY:  "another hypervisor has taken the CPU's virtualisation: end it",
	unix.ENOTTY: "the file is not KVM's device: remove it and load the module kvm_intel or kvm_amd",
	unix.ENOMEM: "the host has no memory left for a VM: free some",
}

func explain(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && remedies[errno] != "" {
		return fmt.Errorf("%s cannot be used (%w): %s: %w", Device, err, remedies[errno], errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%s cannot be used: %w (%w)", Device, err, errdefs.ErrFailedPrecondition)
}

// modules are the kernel's, by the flag of the CPUs that they are for.
var modules = map[string]string{"vmx": "kvm_intel", "svm": "kvm_amd"}

// Module is the kernel's module that makes the device with this host's CPU; empty if there is
// none.
func Module() string {
	flag, _ := flagOf(cpuInfo)
	return modules[flag]
}

const cpuInfo = "/proc/cpuinfo"

// checkCPU is the cheap half: without the CPU's virtualisation flag no guest of
// ours can run, whatever /dev/kvm says.
func checkCPU(cpuinfo string) error {
	if !flagsExpected {
		return nil
	}
	flag, err := flagOf(cpuinfo)
	if err != nil {
		return fmt.Errorf("cannot tell whether the CPU has virtualisation: %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	if flag == "" {
		return fmt.Errorf("the CPU has no hardware virtualisation (no vmx or svm in %s): %w", cpuinfo, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// flagOf is the CPU's virtualisation flag; empty if it has none.
func flagOf(cpuinfo string) (string, error) {
	data, err := os.ReadFile(cpuinfo)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if modules[flag] != "" {
				return flag, nil
			}
		}
	}
	return "", nil
}
