package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/msb-runtime/containerd-shim-msb/guest/pod"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// HelperCommand is the agent's first argument that makes it call Help, with an order after it.
const HelperCommand = "transfer"

// namespaceFD is the descriptor of the mount namespace that a helper enters.
const namespaceFD = 3

// An order is what a helper is to do.
type order struct {
	Import            bool
	Path              string
	NoWalk            bool
	PreserveOwnership bool
	Users, Groups     idMap
}

// Help is the whole life of a helper. It reads an archive from standard input or writes one
// to standard output. Its exit code is gRPC's for the error that it writes to standard error.
func Help(text string) {
	err := thread.Run(func() error { return help(text) })
	if err == nil {
		os.Exit(0)
	}
	code := status.Code(errgrpc.ToGRPC(classify(err)))
	fmt.Fprint(os.Stderr, err)
	os.Exit(int(code))
}

func help(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	// Where memory runs out it is the transfer that ends.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return err
	}
	if err := enter(namespaceFD); err != nil {
		return fmt.Errorf("entering the container's mount namespace: %w", err)
	}
	// A mount with mapped owners takes no file of an id that it does not map (mount_setattr(2)).
	if root := o.root(); root != (owner{}) {
		if err := pod.BecomeRoot(root.uid, root.gid); err != nil {
			return err
		}
	}
	if o.Import {
		return o.unpack(os.Stdin)
	}
	return o.pack(os.Stdout)
}

// enter moves this thread into a mount namespace. The thread gets a root and a umask of its
// own (setns(2), unshare(2)); the root is the namespace's.
func enter(namespace int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	unix.Umask(0)
	return unix.Close(namespace)
}

// file is the path in the container's root, clean and absolute.
func (o *order) file() string { return path.Clean("/" + o.Path) }

// wantsDir tells whether the path says that it is a directory: then a link is followed.
func (o *order) wantsDir() bool { return strings.HasSuffix(o.Path, "/") || o.wantsContent() }

// wantsContent tells whether the path means what is in a directory, as "dir/." does.
func (o *order) wantsContent() bool { return strings.HasSuffix(o.Path, "/.") || o.file() == "/" }

// classify gives an error the class that a client may act upon.
func classify(err error) error {
	if !errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown) {
		return err
	}
	for _, c := range []struct {
		is, class error
	}{
		{unix.ENOENT, errdefs.ErrNotFound},
		{unix.EEXIST, errdefs.ErrAlreadyExists},
		{unix.EPERM, errdefs.ErrPermissionDenied},
		{unix.EACCES, errdefs.ErrPermissionDenied},
		{unix.EROFS, errdefs.ErrPermissionDenied},
		{unix.ENOTDIR, errdefs.ErrInvalidArgument},
		{unix.EISDIR, errdefs.ErrInvalidArgument},
		{unix.ELOOP, errdefs.ErrInvalidArgument},
		{unix.ENAMETOOLONG, errdefs.ErrInvalidArgument},
		{unix.ENOSPC, errdefs.ErrResourceExhausted},
		{unix.EDQUOT, errdefs.ErrResourceExhausted},
		{unix.ENOMEM, errdefs.ErrResourceExhausted},
		{io.ErrUnexpectedEOF, errdefs.ErrInvalidArgument},
	} {
		if errors.Is(err, c.is) {
			return fmt.Errorf("%w (%w)", err, c.class)
		}
	}
	return err
}
