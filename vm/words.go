package vm

// Words are parameters of the guest's kernel with each driver
// (Documentation/admin-guide/kernel-parameters.txt).
var Words = []string{
	// Interfaces that the tunnels' drivers make in each network namespace are not the host's.
	"fb_tunnels=none",
}
