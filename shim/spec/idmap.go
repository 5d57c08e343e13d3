package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// An IDMap maps user and group ids: those in a user namespace to those of its parent
// (user_namespaces(7)), or a file's to those that a mount shows (mount_setattr(2),
// "ID-mapped mounts"). The zero value maps nothing.
type IDMap struct{ UIDs, GIDs []specs.LinuxIDMapping }

// IsZero tells that nothing is mapped.
func (m IDMap) IsZero() bool { return len(m.UIDs)+len(m.GIDs) == 0 }

// Equal tells that both map the same ids in the same way.
func (m IDMap) Equal(other IDMap) bool {
	return slices.Equal(m.UIDs, other.UIDs) && slices.Equal(m.GIDs, other.GIDs)
}

// Owner is what a user and a group are mapped to. What is not mapped is itself if nothing
// is, and otherwise nobody (user_namespaces(7), "Unmapped user and group IDs").
func (m IDMap) Owner(uid, gid uint32) (mappedUID, mappedGID uint32) {
	if m.IsZero() {
		return uid, gid
	}
	return mapID(m.UIDs, uid), mapID(m.GIDs, gid)
}

// HasOwner tells whether a user is one that an id is mapped to.
func (m IDMap) HasOwner(uid uint32) bool { return hasID(m.UIDs, uid) }

// HasGroup is HasOwner of a group.
func (m IDMap) HasGroup(gid uint32) bool { return hasID(m.GIDs, gid) }

func hasID(mappings []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(mappings, func(m specs.LinuxIDMapping) bool {
		return id >= m.HostID && uint64(id) < uint64(m.HostID)+uint64(m.Size)
	})
}

const nobody = 65534

func mapID(mappings []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range mappings {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return nobody
}

// The kernel takes so many ranges, written in less than a page (user_namespaces(7)).
const (
	maxMappings = 340
	page        = 4096
)

// check refuses what the kernel would.
func (m IDMap) check(what string) error {
	for _, mappings := range [][]specs.LinuxIDMapping{m.UIDs, m.GIDs} {
		if len(mappings) == 0 || len(mappings) > maxMappings || len(options(mappings)) >= page {
			return invalid("%s has %d mappings of ids: it needs 1 to %d, of users and of groups", what, len(mappings), maxMappings)
		}
		for i, one := range mappings {
			const ids = 1<<32 - 1 // the last is none
			if one.Size == 0 || uint64(one.ContainerID)+uint64(one.Size) > ids || uint64(one.HostID)+uint64(one.Size) > ids {
				return invalid("%s maps %d ids from %d to %d: there are no such ids", what, one.Size, one.ContainerID, one.HostID)
			}
			for _, other := range mappings[:i] {
				if overlap(one.ContainerID, one.Size, other.ContainerID, other.Size) || overlap(one.HostID, one.Size, other.HostID, other.Size) {
					return invalid("%s maps ids from %d to %d and from %d to %d: the ranges overlap", what, one.ContainerID, one.HostID, other.ContainerID, other.HostID)
				}
			}
		}
	}
	return nil
}

func overlap(a, sizeA, b, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// checkUsers is check of a user namespace, which needs a root.
func (m IDMap) checkUsers(what string) error {
	if err := m.check(what); err != nil {
		return err
	}
	root := func(one specs.LinuxIDMapping) bool { return one.ContainerID == 0 }
	if !slices.ContainsFunc(m.UIDs, root) || !slices.ContainsFunc(m.GIDs, root) {
		return invalid("%s maps no root: map user 0 and group 0", what)
	}
	return nil
}

// Options are the mappings as containerd's mount options "uidmap" and "gidmap" write
// them: container:host:size, separated by commas.
func (m IDMap) Options() (uids, gids string) { return options(m.UIDs), options(m.GIDs) }

func options(mappings []specs.LinuxIDMapping) string {
	var all []string
	for _, one := range mappings {
		all = append(all, fmt.Sprintf("%d:%d:%d", one.ContainerID, one.HostID, one.Size))
	}
	return strings.Join(all, ",")
}

// usersOf is the mapping of a container's user namespace; zero if it asks for none.
func usersOf(linux *specs.Linux) (IDMap, error) {
	if !slices.ContainsFunc(linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		return IDMap{}, nil
	}
	users := IDMap{linux.UIDMappings, linux.GIDMappings}
	return users, users.checkUsers("the user namespace")
}

// usersOfPod is that of a pod.
func usersOfPod(options *cri.UserNamespace) (IDMap, error) {
	if options == nil || options.GetMode() == cri.NamespaceMode_NODE {
		return IDMap{}, nil
	}
	if options.GetMode() != cri.NamespaceMode_POD {
		return IDMap{}, invalid("the pod's user namespace has mode %s: it is POD or NODE", options.GetMode())
	}
	read := func(mappings []*cri.IDMapping) (all []specs.LinuxIDMapping) {
		for _, m := range mappings {
			all = append(all, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
		}
		return all
	}
	users := IDMap{read(options.GetUids()), read(options.GetGids())}
	return users, users.checkUsers("the pod's user namespace (hostUsers: false)")
}

// Users is the mapping of the container's user namespace; zero if it has none of its own.
func (p *Plan) Users() IDMap { return p.users }

// IOOwner is whose the container's pipes are in the guest, so that its first process can
// open them again by /proc/self/fd. Without a user namespace they stay root's, as with runc.
func (p *Plan) IOOwner() (uid, gid uint32) {
	if p.users.IsZero() {
		return 0, 0
	}
	return p.users.Owner(p.spec.Process.User.UID, p.spec.Process.User.GID)
}
