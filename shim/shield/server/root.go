package server

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// rootInode is the inode number of the root (fuse.h, FUSE_ROOT_ID).
const rootInode = 1

// root is the directory of all entries. Only the shim sees it. Nothing can be
// made, changed or removed in it: fs.Inode would answer some of that with
// success.
type root struct{ fs.Inode }

var (
	_ fs.NodeGetattrer = (*root)(nil)
	_ fs.NodeSetattrer = (*root)(nil)
	_ fs.NodeCreater   = (*root)(nil)
	_ fs.NodeTmpfiler  = (*root)(nil)
	_ fs.NodeMkdirer   = (*root)(nil)
	_ fs.NodeMknoder   = (*root)(nil)
	_ fs.NodeSymlinker = (*root)(nil)
	_ fs.NodeLinker    = (*root)(nil)
	_ fs.NodeRenamer   = (*root)(nil)
	_ fs.NodeUnlinker  = (*root)(nil)
	_ fs.NodeRmdirer   = (*root)(nil)
)

// Getattr implements fs.NodeGetattrer.
func (*root) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFDIR | 0o555
	return 0
}

// Setattr implements fs.NodeSetattrer.
func (*root) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return syscall.EPERM
}

// Create implements fs.NodeCreater.
func (*root) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

// Tmpfile implements fs.NodeTmpfiler.
func (*root) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

// Mkdir implements fs.NodeMkdirer.
func (*root) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Mknod implements fs.NodeMknoder.
func (*root) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink implements fs.NodeSymlinker.
func (*root) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Link implements fs.NodeLinker.
func (*root) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Rename implements fs.NodeRenamer.
func (*root) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// Unlink implements fs.NodeUnlinker.
func (*root) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rmdir implements fs.NodeRmdirer.
func (*root) Rmdir(context.Context, string) syscall.Errno { return syscall.EPERM }
