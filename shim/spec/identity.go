package spec

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// An Identity is who a process of a container is at its start, with the ids of the
// container's user namespace.
type Identity struct {
	UID, GID uint32
	Groups   []uint32
	// Fixed says that neither it nor what it starts can become anybody else.
	Fixed bool
}

// Equal tells that two are the same.
func (i Identity) Equal(other Identity) bool {
	return i.UID == other.UID && i.GID == other.GID && i.Fixed == other.Fixed && slices.Equal(i.Groups, other.Groups)
}

// Identity is that of the container's first process.
func (p *Plan) Identity() Identity { return identityOf(p.spec.Process) }

// ExecIdentity is that of the process of an exec request.
func ExecIdentity(process *anypb.Any) (Identity, error) {
	var p specs.Process
	if err := json.Unmarshal(process.GetValue(), &p); err != nil {
		return Identity{}, fmt.Errorf("the exec's process cannot be read: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	return identityOf(&p), nil
}

// identityOf: who is not root, has no capability, and gets none from a program's file
// (PR_SET_NO_NEW_PRIVS(2const)), has no way to another id (setuid(2), execve(2)).
func identityOf(process *specs.Process) Identity {
	user := process.User
	i := Identity{UID: user.UID, GID: user.GID, Groups: user.AdditionalGids}
	i.Fixed = user.UID != 0 && process.NoNewPrivileges
	if has := process.Capabilities; has != nil {
		i.Fixed = i.Fixed && len(has.Permitted)+len(has.Effective)+len(has.Inheritable)+len(has.Ambient) == 0
	}
	return i
}
