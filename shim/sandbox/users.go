package sandbox

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// userNamespace is a mapping for the agent; nil if nothing is mapped.
func userNamespace(users spec.IDMap) *api.UserNamespace {
	if users.IsZero() {
		return nil
	}
	mappings := func(given []specs.LinuxIDMapping) (all []*api.IDMapping) {
		for _, m := range given {
			all = append(all, &api.IDMapping{Container: m.ContainerID, Guest: m.HostID, Size: m.Size})
		}
		return all
	}
	return &api.UserNamespace{Uids: mappings(users.UIDs), Gids: mappings(users.GIDs)}
}
