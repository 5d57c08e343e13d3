package share

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// attach puts a mount that is attached nowhere onto target (move_mount(2)).
func attach(mount *os.File, target string) error {
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// clone makes a bind of an object, with its attributes, that is attached nowhere
// (open_tree(2), mount_setattr(2)). It goes with the descriptor that is returned, which the
// caller closes.
func (t *Trees) clone(source object, attributes Attributes) (*os.File, error) {
	mount, err := source.clone(attributes.Recursive)
	if err != nil {
		return nil, err
	}
	if err := t.restrict(mount, attributes); err != nil {
		return nil, errors.Join(err, mount.Close())
	}
	return mount, nil
}

func (o object) clone(recursive bool) (mount *os.File, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err = o.in.Do(func() error {
		fd, err := unix.OpenTree(int(o.file.Fd()), "", flags)
		if err != nil {
			return &os.PathError{Op: "open_tree", Path: o.file.Name(), Err: err}
		}
		mount = os.NewFile(uintptr(fd), o.file.Name())
		return nil
	})
	return mount, err
}

// restrict gives a mount that is attached nowhere its attributes.
//
// Device nodes are never opened through a share, whoever made them: the guest's
// kernel serves its own, and the file server must not be led to the host's. Nor does
// anybody follow a symbolic link there, or what proc(5) has for one: links are for the
// guest's kernel.
func (t *Trees) restrict(mount *os.File, attributes Attributes) error {
	steps, err := t.steps(attributes)
	if err != nil {
		return err
	}
	for _, step := range steps {
		err := unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH|step.flags, &step.attr)
		if err != nil {
			return attributeError(mount.Name(), step, err)
		}
	}
	return nil
}

// Of the ids that a mount maps, those of the host's root, who the file server is, are not one.
// It makes files as the guest's users, and renames and links them as itself: where its own id
// has none in the file system, the kernel refuses that with EOVERFLOW (idmappings.rst). So it
// has the last one that there is, which is nobody's.
const serverID = math.MaxUint32 - 1

// maxMappings is how many the kernel takes (user_namespaces(7)).
const maxMappings = 340

// withServer adds the server's id to a mapping that leaves room for it.
func withServer(mapping string) string {
	ranges := strings.Split(mapping, ",")
	for _, text := range ranges {
		var inside, outside, size uint64
		if _, err := fmt.Sscanf(text, "%d:%d:%d", &inside, &outside, &size); err != nil || outside == 0 || inside+size > serverID {
			return mapping
		}
	}
	if len(ranges) >= maxMappings {
		return mapping
	}
	return fmt.Sprintf("%s,%d:0:1", mapping, serverID)
}

// attributeError says what a mount cannot have (mount_setattr(2)).
func attributeError(path string, step attrStep, err error) error {
	if errors.Is(err, unix.EINVAL) && step.attr.Attr_set == unix.MOUNT_ATTR_IDMAP {
		return fmt.Errorf("source %s: its file system cannot map the owners of its files, which a user namespace needs: use another, such as ext4, XFS, Btrfs, or tmpfs since Linux 6.3: %w", path, errdefs.ErrInvalidArgument)
	}
	return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
}

type attrStep struct {
	flags uint
	attr  unix.MountAttr
}

func (t *Trees) steps(a Attributes) ([]attrStep, error) {
	all := attrStep{flags: unix.AT_RECURSIVE, attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW}}
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
	if a.IDMap == (IDMap{}) {
		return steps, nil
	}
	users, err := t.namespaces.of(withServer(a.IDMap.UIDs), withServer(a.IDMap.GIDs))
	if err != nil {
		return nil, err
	}
	mapped := attrStep{attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}}
	if a.IDMap.Recursive {
		mapped.flags = unix.AT_RECURSIVE
	}
	return append(steps, mapped), nil
}

// An IDMap maps the owners of a source's files to those that the guest sees: in the form
// of containerd's mount options, container:host:size, separated by commas. The zero value
// maps nothing. Recursive extends it to the mounts below the source.
type IDMap struct {
	UIDs, GIDs string
	Recursive  bool
}

// namespaces keeps the user namespaces by which the kernel is told of mappings, one for
// each.
type namespaces struct {
	mu    sync.Mutex
	files map[[2]string]*os.File
}

// of is the namespace of a mapping. It stays the table's.
func (n *namespaces) of(uids, gids string) (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{uids, gids}
	if file := n.files[key]; file != nil {
		return file, nil
	}
	file, err := mount.GetUsernsFD(uids, gids)
	if err != nil {
		return nil, fmt.Errorf("a user namespace of the mappings %s and %s: %w", uids, gids, err)
	}
	if n.files == nil {
		n.files = make(map[[2]string]*os.File)
	}
	n.files[key] = file
	return file, nil
}

func (n *namespaces) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, file := range n.files {
		file.Close()
	}
	n.files = nil
}
