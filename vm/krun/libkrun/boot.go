package libkrun

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/krun/api"
)

// Values of libkrun.h.
const (
	logWarn     = 2 // KRUN_LOG_LEVEL_WARN
	logNever    = 2 // KRUN_LOG_STYLE_NEVER: no colours
	logNoEnv    = 1 // KRUN_LOG_OPTION_NO_ENV
	logStderr   = 2 // a descriptor
	formatELF   = 1 // KRUN_KERNEL_FORMAT_ELF
	diskRaw     = 0 // KRUN_DISK_FORMAT_RAW
	noTSI       = 0 // no socket of the guest becomes one of the host
	tsiInet     = 1 // KRUN_TSI_HIJACK_INET: those of IPv4 and IPv6 do
	noInitramfs = 0
	noDAXWindow = 0
	noNetFlags  = 0
	// NET_FEATURE_…: CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6
	offloads = 1<<0 | 1<<1 | 1<<7 | 1<<8 | 1<<11 | 1<<12
)

// Check refuses what the library would refuse later and less clearly.
func (l *Library) Check(m api.Machine) error {
	most := l.GetMaxVCPUs()
	if err := errno(most); err != nil {
		return fmt.Errorf("asking KVM for the number of virtual CPUs: %w", err)
	}
	if limit := min(int(most), math.MaxUint8); m.CPUs > limit {
		return fmt.Errorf("%d virtual CPUs are more than libkrun and KVM allow here, which is %d: give the container fewer", m.CPUs, limit)
	}
	if m.MemoryMiB > math.MaxUint32 {
		return fmt.Errorf("%d MiB of memory are more than libkrun allows: lower the limit", m.MemoryMiB)
	}
	return checkMemory(m.MemoryMiB)
}

// checkMemory maps as much as libkrun will, in the same way, to say clearly that it
// is not to be had; pages are not touched.
func checkMemory(mib int64) error {
	memory, err := unix.Mmap(-1, 0, int(mib<<20), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("the host cannot give the VM its %d MiB of memory (%w): lower the limit or the default, or free memory", mib, err)
	}
	return unix.Munmap(memory)
}

// Boot runs the machine. It returns only with an error: when the guest ends, the
// process does.
func (l *Library) Boot(m api.Machine) error {
	if err := errno(l.InitLog(logStderr, logWarn, logNever, logNoEnv)); err != nil {
		return fmt.Errorf("libkrun's log: %w", err)
	}
	created := l.CreateContext()
	if err := errno(created); err != nil {
		return fmt.Errorf("creating libkrun's context: %w", err)
	}
	ctx := uint32(created)
	tsi := uint32(noTSI)
	if m.HostNetwork {
		tsi = tsiInet
	}
	type step struct {
		what string
		do   func() int32
	}
	steps := []step{
		{"size", func() int32 { return l.SetVMConfig(ctx, uint8(m.CPUs), uint32(m.MemoryMiB)) }},
		{"kernel", func() int32 { return l.SetKernel(ctx, m.Kernel, formatELF, noInitramfs, m.CommandLine) }},
		{"disk", func() int32 { return l.AddDisk(ctx, "root", m.Disk, diskRaw, true) }},
		{"console", func() int32 { return l.SetConsoleOutput(ctx, m.Console) }},
		// Instead of the implicit device, which joins the guest's sockets to the
		// host's network.
		{"vsock", func() int32 { return l.DisableImplicitVsock(ctx) }},
		{"vsock", func() int32 { return l.AddVsock(ctx, tsi) }},
		{"vsock port", func() int32 { return l.AddVsockPort(ctx, m.Port, m.Socket, false) }},
	}
	for _, share := range m.Shares {
		steps = append(steps, step{"share " + share.Tag, func() int32 {
			return l.AddVirtioFS(ctx, share.Tag, share.Dir, noDAXWindow, false)
		}})
	}
	for _, i := range m.Interfaces {
		steps = append(steps, step{"interface " + i.Tap, func() int32 {
			return l.AddNetTap(ctx, i.Tap, &i.HardwareAddress[0], offloads, noNetFlags)
		}})
	}
	// The start comes last, and in the same way.
	steps = append(steps, step{"machine", func() int32 { return l.StartEnter(ctx) }})
	for _, step := range steps {
		if err := errno(step.do()); err != nil {
			return fmt.Errorf("libkrun refused the %s: %w", step.what, err)
		}
	}
	return nil
}
