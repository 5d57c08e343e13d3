package vm

// Words are parameters of the guest's kernel with each driver
// (Documentation/admin-guide/kernel-parameters.txt).
var Words = []string{
	// Interfaces that the tunnels' drivers make in each network namespace are not the host's.
	"fb_tunnels=none",
	// Nor is /sys/kernel/slab there, whose thousands of files are made at each boot: a twentieth of it.
	"initcall_blacklist=slab_late_init",
}
