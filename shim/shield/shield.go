// Package shield stands between a guest and the files that were mounted for it
// read-write: what the guest writes reaches the host's file, what it sets of mode,
// owner, times and extended attributes does not.
//
// It is a FUSE file system in the shim's mount namespace, served by a process of
// its own (msb-shield) in a jail. The shim mounts it and hands over the opened
// device; the process gets each file as a descriptor. It has no directory of the
// host, nor a path that leads to one: where a file is followed, the shim looks its
// name up for it (names.go).
package shield

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

const (
	device = "/dev/fuse"
	// grace is how long the process may take to end when its mount and its shim
	// are gone.
	grace = time.Second
	// patience is for an answer on a host that is very busy.
	patience = 30 * time.Second
	// deathNotice is how long the end of the process may take to be known.
	deathNotice = time.Second
)

// capabilities are what the process needs on behalf of the guest's users
// (capabilities(7)). It has none that changes metadata, and without CAP_FSETID a
// write clears the set-id bits of the host's file, as a user's would. As root it
// owns many of the host's files all the same, and CAP_SYS_ADMIN is worth a lot: it
// freezes file systems and opens any of their files (ioctl_fifreeze(2), XFS's
// handles). The jail's filter ends both (jail.Spec.DataOnly).
var capabilities = []uintptr{
	unix.CAP_DAC_OVERRIDE, // what the guest's view of mode and owner allows, it may
	unix.CAP_SYS_ADMIN,    // the kernel asks for it to take a backing file
}

// A Shield is a running one. Its methods may be called concurrently.
type Shield struct {
	dir     string
	process *jail.Process
	names   *names
	// patience is how long an answer may take.
	patience time.Duration

	mu   sync.Mutex // one request at a time
	conn *net.UnixConn
}

// Start mounts a shield on dir, an empty directory in the caller's own mount
// namespace, and starts program, which is msb-shield. The caller ends it with
// Close. An error of the class errdefs.ErrFailedPrecondition says what the host
// lacks.
func Start(program jail.Program, dir string, output *vm.Console) (_ *Shield, err error) {
	fuse, err := mount(dir)
	if err != nil {
		return nil, err
	}
	defer fuse.Close()
	s := &Shield{dir: dir, patience: patience}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	conn, control, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	s.conn = conn
	questions, asks, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer asks.Close()
	s.names = answer(questions)
	empty := filepath.Join(filepath.Dir(dir), filepath.Base(dir)+".jail")
	if err := os.Mkdir(empty, 0o700); err != nil {
		return nil, err
	}
	spec := Jail(program.Path, empty)
	spec.Opened, spec.Files, spec.Output = program.File, []*os.File{control, fuse, asks}, output
	s.process, err = jail.Start(spec)
	return s, err
}

// Jail is what the process of a shield is confined to, but for its descriptors and its
// output; dir is an empty directory. A test puts another program in its place.
func Jail(program, dir string) jail.Spec {
	return jail.Spec{
		Program:         program,
		Root:            &jail.Root{Dir: dir, Descriptors: true},
		Namespaces:      jail.Isolated,
		Capabilities:    capabilities,
		NoNewPrivileges: true,
		Limits:          jail.FileServerLimits(jail.DescriptorLimit()),
		Cooperates:      true,
		Filter:          true,
		DataOnly:        true,
	}
}

// socketPair makes a connection between the shim and the process (package api). Both
// are the caller's.
func socketPair() (_ *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "shield"), os.NewFile(uintptr(fds[1]), "shield")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// mount makes the file system. Its device is opened here, so that the process
// needs neither the node nor the right to mount (fuse(4)).
func mount(dir string) (*os.File, error) {
	fuse, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w; load the kernel module fuse, or let the mount have the option x-msb.metadata=host, which gives the guest the file's mode and owner too (%w)",
			err, errdefs.ErrFailedPrecondition)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other", fuse.Fd(), unix.S_IFDIR)
	if err := unix.Mount("msb", dir, "fuse.msb", unix.MS_NODEV, options); err != nil {
		fuse.Close()
		return nil, fmt.Errorf("mounting FUSE on %s: %w (%w)", dir, err, errdefs.ErrFailedPrecondition)
	}
	return fuse, nil
}

// Add gives the file of a descriptor an entry and returns it, opened with O_PATH,
// to be bound where the guest finds it. With dir, an open in the guest opens what
// base then is in it (update=follow): a regular file, found in the mount that dir
// is of, and read-only if file is. All descriptors are the caller's.
func (s *Shield) Add(name string, file, dir *os.File, base string) (*os.File, error) {
	request := api.Request{Add: name}
	if dir != nil {
		request.Follow = true
		if err := s.names.follow(name, file, dir, base); err != nil {
			return nil, err
		}
	}
	entry, err := s.add(request, file)
	if err != nil {
		s.names.forget(name)
	}
	return entry, err
}

// AddFixed is Add for a file that keeps its size: nothing is written beyond its end, and no
// space is allocated there.
func (s *Shield) AddFixed(name string, file *os.File) (*os.File, error) {
	return s.add(api.Request{Add: name, Fixed: true}, file)
}

func (s *Shield) add(request api.Request, file *os.File) (*os.File, error) {
	if err := s.call(request, file); err != nil {
		return nil, err
	}
	// The kernel asks the process about the name, and waits for ever if it is owned and
	// answers nothing: its end answers.
	overdue := time.AfterFunc(s.patience, s.process.Kill)
	defer overdue.Stop()
	return os.OpenFile(filepath.Join(s.dir, request.Add), unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// Remove takes an entry away. What still uses it may go on. A shield that has ended
// has no entries.
func (s *Shield) Remove(name string) error {
	s.names.forget(name)
	err := s.call(api.Request{Remove: name})
	if !errdefs.IsUnavailable(err) {
		return err
	}
	select {
	case <-s.Done():
		return nil
	case <-time.After(deathNotice):
		return err
	}
}

func (s *Shield) call(request api.Request, files ...*os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.SetDeadline(time.Now().Add(s.patience)); err != nil {
		return err
	}
	if err := api.Send(s.conn, request, files...); err != nil {
		return fmt.Errorf("asking msb-shield: %w (%w)", err, errdefs.ErrUnavailable)
	}
	var reply api.Reply
	if _, err := api.Receive(s.conn, &reply); err != nil {
		return fmt.Errorf("waiting for msb-shield: %w (%w)", err, errdefs.ErrUnavailable)
	}
	if reply.Error != "" {
		return fmt.Errorf("msb-shield: %s", reply.Error)
	}
	return nil
}

// Done is closed when the process has ended.
func (s *Shield) Done() <-chan struct{} { return s.process.Exited() }

// Close ends the shield. What a VM still has of it answers ENOTCONN.
func (s *Shield) Close() error {
	var errs []error
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.process != nil {
		s.process.End(grace)
	}
	if s.names != nil {
		errs = append(errs, s.names.close())
	}
	return errors.Join(append(errs, unix.Unmount(s.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))...)
}
