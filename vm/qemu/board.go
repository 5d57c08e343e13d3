package qemu

import "strconv"

// A board is what a machine is like on one architecture.
type board struct {
	// program is QEMU's for it, pkg is Debian's package of that.
	program, pkg string
	// machine is QEMU's name of the machine, with what is off and on of it.
	machine string
	// emulated is the model of its processors without KVM.
	emulated string
	// words are parameters of the kernel.
	words []string
	// emulationWords are those that software emulation needs besides.
	emulationWords func(p plan) []string
}

// boards are those that there are, by the architecture that the guest's kernel is for.
var boards = map[string]board{
	"amd64": {
		program: "qemu-system-x86_64", pkg: "qemu-system-x86",
		machine: "microvm,acpi=off,isa-serial=off",
		// A model with at least x86-64-v2, which images of today need and QEMU's own default
		// lacks. Without ERMS the guest's kernel clears and copies pages by eight bytes at a
		// time, not one, which counts where each step is emulated. Nobody runs a VM in an
		// emulated one: without SVM the kernel does not prepare for that.
		emulated: "max,erms=off,svm=off",
		words: []string{
			"reboot=t",
			// The clock's interrupt is a virtio device's here, and the shim sets
			// the time: without its driver there is no complaint about that. The
			// kernel's other random numbers need no jitter RNG, whose self-test takes
			// a twentieth of the boot.
			"initcall_blacklist=cmos_init,jent_mod_init",
		},
		emulationWords: plan.x86EmulationWords,
	},
	"arm64": {
		program: "qemu-system-aarch64", pkg: "qemu-system-arm",
		machine: "virt,gic-version=max",
		// Pointer authentication by QEMU's own algorithm: the architecture's takes half of the time.
		emulated:       "max,pauth-impdef=on",
		words:          []string{"initcall_blacklist=jent_mod_init"},
		emulationWords: func(plan) []string { return nil },
	},
}

// x86EmulationWords are the kernel parameters that software emulation of x86-64 needs.
func (p plan) x86EmulationWords() []string {
	words := []string{
		// Else the kernel counts the timer's interrupts, and on a busy host, where
		// they come too late, panics before it has a console to say so.
		"no_timer_check",
		// A kernel that finds one processor takes thousands of lock prefixes out of its code.
		// Each makes QEMU drop what it has translated of a page; to run them costs nothing here.
		"noreplace-smp",
	}
	if p.config.CPUs == 1 {
		// The kernel measures the local APIC's timer against others for 0.2 s, however fast
		// the host is. One processor does with the machine's own timer.
		words = append(words, "nolapic_timer")
	}
	if p.tscKHz > 0 {
		// Without it the kernel calibrates against emulated timers, and hangs
		// when the host is busy. Nor can it check the counter against them.
		words = append(words, "tsc_early_khz="+strconv.FormatInt(p.tscKHz, 10), "tsc=reliable")
	}
	return words
}
