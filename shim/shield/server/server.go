// Package server is the shield's process: a FUSE file system between a guest and
// the files that were mounted for it. The files' data goes straight through, by
// the kernel itself where it can (FUSE passthrough); mode, owner, times and
// extended attributes that the guest sets are kept in memory and never reach the
// host's inodes.
//
// The file system is one directory, with one entry per mounted file. The shim
// binds each entry to where the VMM serves it, so neither the directory nor
// another entry is in the VMM's sight.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
)

// Names are never used twice, so the kernel may keep them.
const nameTimeout = time.Hour

// maxWrite is the most that one request carries, in bytes.
const maxWrite = 1 << 20

// extra is what this file system offers beyond what the library does (fuse.h): a
// file that is read past the page cache can be mapped, and set-id bits and file
// capabilities are its own affair (metadata.outdated), so that the kernel need not
// ask for them at every write.
const extra = fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_HANDLE_KILLPRIV_V2

// Server answers the kernel and the shim.
type Server struct {
	fuse  *fuse.Server
	root  *root
	names *names
	next  uint64 // inode number of the next entry
}

// New takes over the mounted FUSE file system of a /dev/fuse descriptor. On the
// connection it asks for the files that are followed.
func New(device int, asks *net.UnixConn) (*Server, error) {
	root := &root{}
	attrTimeout, entryTimeout := time.Duration(0), nameTimeout
	raw := fs.NewNodeFS(root, &fs.Options{
		EntryTimeout: &entryTimeout, AttrTimeout: &attrTimeout,
		NullPermissions: true, // what the guest has set to 0 is 0
		RootStableAttr:  &fs.StableAttr{Ino: rootInode, Gen: 1},
	})
	server, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", device), &fuse.MountOptions{
		MaxWrite: maxWrite,
		// The files may be on an overlay (fuse.h, max_stack_depth).
		MaxStackDepth:     2,
		ExtraCapabilities: extra,
		// This directory is nobody's to list.
		DisableReadDirPlus: true,
		// It opens /dev/null, and this process has no devices.
		DisableSplice: true,
	})
	if err != nil {
		return nil, fmt.Errorf("serving the FUSE file system: %w", err)
	}
	go server.Serve()
	return &Server{fuse: server, root: root, names: &names{conn: asks}, next: rootInode + 1}, nil
}

// Serve answers the shim until it goes away.
func (s *Server) Serve(control *net.UnixConn) error {
	for {
		var request api.Request
		files, err := api.Receive(control, &request)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a request of the shim: %w", err)
		}
		var reply api.Reply
		if err := s.handle(request, files); err != nil {
			reply.Error = err.Error()
		}
		if err := api.Send(control, reply); err != nil {
			return fmt.Errorf("answering the shim: %w", err)
		}
	}
}

func (s *Server) handle(request api.Request, files []*os.File) error {
	switch {
	case request.Add != "" && len(files) == 1:
		f, err := s.shield(request, files[0])
		if err != nil {
			api.CloseAll(files)
			return err
		}
		s.add(request.Add, f)
		return nil
	case request.Remove != "" && len(files) == 0:
		return s.remove(request.Remove)
	}
	api.CloseAll(files)
	return fmt.Errorf("a request with %d descriptors that means nothing: %+v", len(files), request)
}

// shield makes of a file of the host what a request asks for. It owns pin unless there is an
// error.
func (s *Server) shield(request api.Request, pin *os.File) (*file, error) {
	f := &file{current: target{pin: pin}}
	switch {
	case request.Fixed:
		size, err := sizeOf(pin)
		if err != nil {
			return nil, err
		}
		f.fixed = newFixed(size)
	case request.Follow:
		f.current.names, f.current.entry = s.names, request.Add
	default:
		f.passthrough = s.canPassThrough(pin)
	}
	return f, nil
}

// canPassThrough tries whether the kernel takes the file as a backing file. One
// that is refused later would end passthrough for all others.
func (s *Server) canPassThrough(pin *os.File) bool {
	id, errno := s.fuse.RegisterBackingFd(&fuse.BackingMap{Fd: int32(pin.Fd())})
	return errno == 0 && s.fuse.UnregisterBackingFd(id) == 0
}

func (s *Server) add(name string, f *file) {
	inode := s.root.NewPersistentInode(context.Background(), f, fs.StableAttr{Mode: syscall.S_IFREG, Ino: s.next, Gen: 1})
	s.next++
	s.root.AddChild(name, inode, false)
}

func (s *Server) remove(name string) error {
	inode := s.root.GetChild(name)
	if inode == nil {
		return fmt.Errorf("no entry %s", name)
	}
	s.root.RmChild(name)
	if f, ok := inode.Operations().(*file); ok && f.fixed != nil {
		f.fixed.revoke()
		f.current.close()
	}
	inode.ForgetPersistent()
	_ = s.root.NotifyEntry(name) // the kernel lets go of it now, not in an hour
	return nil
}
