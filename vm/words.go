package vm

// Words are parameters of the guest's kernel with each driver
// (Documentation/admin-guide/kernel-parameters.txt).
var Words = []string{
	// Interfaces that the tunnels' drivers make in each network namespace are not the host's.
	"fb_tunnels=none",
	// Memory is not made contiguous before somebody needs it: to look whether it is wakes a VM
	// twice a second, for as long as it lives (Documentation/admin-guide/sysctl/vm.rst).
	"sysctl.vm.compaction_proactiveness=0",
}
