package share

import (
	"os"

	"golang.org/x/sys/unix"
)

// attach binds the descriptor's object onto target. The bind exists, with its
// attributes, before it is attached (open_tree(2), mount_setattr(2),
// move_mount(2)).
//
// Device nodes are never opened through a share, whoever made them: the guest's
// kernel serves its own, and the file server must not be led to the host's.
func attach(source *os.File, target string, attributes Attributes) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if attributes.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", flags)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source.Name(), Err: err}
	}
	defer unix.Close(fd)
	for _, step := range attributes.steps() {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|step.flags, &step.attr); err != nil {
			return &os.PathError{Op: "mount_setattr", Path: source.Name(), Err: err}
		}
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

type attrStep struct {
	flags uint
	attr  unix.MountAttr
}

func (a Attributes) steps() []attrStep {
	all := attrStep{flags: unix.AT_RECURSIVE, attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}}
	if !a.Slave {
		all.attr.Propagation = unix.MS_PRIVATE
	} else {
		all.attr.Propagation = unix.MS_SLAVE
	}
	steps := []attrStep{all}
	if a.ReadOnly {
		top := attrStep{attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}}
		if a.RecursiveReadOnly {
			top.flags = unix.AT_RECURSIVE
		}
		steps = append(steps, top)
	}
	return steps
}
