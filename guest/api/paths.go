// Package api is the protocol between the shim and the agent: the messages and
// services of guest.proto, the names of places in the guest that both sides
// speak of, and how a stream begins.
package api

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// The virtio-fs tags of the two trees.
const (
	// PoolTag is the tree of root file systems and mounted directories.
	PoolTag = "msbpool"
	// FilesTag is the tree of mounted files.
	FilesTag = "msbfiles"
)

// Places in the guest.
const (
	// Init is the agent.
	Init = "/sbin/msb-agent"
	// Crun is the OCI runtime.
	Crun = "/sbin/crun"

	run     = "/run/msb"
	pool    = run + "/pool"
	bundles = run + "/bundles"
	removed = run + "/removed"
	files   = run + "/files"
	stages  = run + "/stages"
	sockets = run + "/sockets"
	stdio   = run + "/stdio"
	network = run + "/network"
	users   = run + "/users"
	pod     = run + "/pod"
	images  = run + "/images"
	imaging = run + "/images.stage"
	roots   = run + "/roots"
)

// RouteUnicast is the type of an ordinary route (rtnetlink(7), RTN_UNICAST).
const RouteUnicast = 1

// NetworkPath is the network namespace that containers join.
func NetworkPath() string { return network }

// AgentNetworkPath is the network namespace of the agent, which has the host's network if the
// VM has.
func AgentNetworkPath() string { return NamespacePath(1, "net") }

// UsersPath is the user namespace that containers join, if they have one.
func UsersPath() string { return users }

// PodPath is where something that the containers of a pod share is: PodSharedMemory,
// or one of its files.
func PodPath(name string) string { return path.Join(pod, name) }

// PodSharedMemory is the file system for POSIX shared memory (shm_overview(7)).
const PodSharedMemory = "shm"

// NamespacePath is a namespace of a process: kind is a name of namespaces(7), as
// "ipc".
func NamespacePath(pid uint32, kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }

// PoolPath is where the agent mounts the pool.
func PoolPath() string { return pool }

// SharePath is where a share of the pool appears.
func SharePath(tag string) string { return path.Join(pool, tag) }

// BundlePath is the directory of a container's bundle.
func BundlePath(container string) string { return path.Join(bundles, container) }

// RemovedPath is the directory in which bundles are that go.
func RemovedPath() string { return removed }

// FilesPath is the directory of the places from which crun takes a container's
// mounted files.
func FilesPath(container string) string { return path.Join(files, container) }

// FilePath is the place from which crun takes one mounted file.
func FilePath(container, tag string) string { return path.Join(files, container, tag) }

// SocketPath is where the agent listens for a socket in a container's directories.
func SocketPath(container, tag string) string { return path.Join(sockets, container, tag) }

// StagePath is where the agent mounts the files tree while it binds a
// container's files.
func StagePath(container string) string { return path.Join(stages, container) }

// ImagePath is where an image is mounted.
func ImagePath(tag string) string { return path.Join(images, tag) }

// RootPath is the root file system of a container that is made of images.
func RootPath(container string) string { return path.Join(roots, container) }

// ImageStagePath is where the agent mounts the files tree while it mounts images.
func ImageStagePath() string { return imaging }

// StdioPath is the FIFO of a standard stream.
func StdioPath(id string) string { return path.Join(stdio, id) }

// CheckName refuses what cannot be one component of a path.
func CheckName(kind, name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%s %q is not a file name: %w", kind, name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Sysctl begins the words of the kernel's command line that are kernel parameters for the
// agent to set: "msb.sysctl.fs.protected_hardlinks=1". The kernel takes a word with a dot for
// a module's and passes it over.
const Sysctl = "msb.sysctl."
