package server

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// maxAttributes bounds the extended attributes that are kept for one file, names
// and values, in bytes: about what the file systems of hosts take.
const maxAttributes = 64 << 10

// metadata is what a guest has set of a file and its host's inode has not. Its
// zero value has set nothing.
type metadata struct {
	mu         sync.Mutex
	rights     *rights
	uid, gid   *uint32
	atime      *stamp
	mtime      *stamp
	changed    time.Time         // when any of it was set: the least ctime
	attributes map[string][]byte // nil: removed
	// privileged is the host's mtime when the guest set set-id bits or file
	// capabilities: they are of that content (see outdated). nil: it set none.
	privileged *unix.Timespec
}

// rights are the mode that the guest has set, and the access control list that the file had
// then. The guest's kernel judges by a mode alone: a group that the list keeps out stays out
// when the mask is set, as with the kernel that has the list.
type rights struct {
	mode uint32   // permission bits
	list acl.List // nil: none
}

// inode is what the host's inode says.
type inode struct {
	unix.Stat_t
	list acl.List // nil: none
}

// stamp is a time set by hand. It holds until the host's own moves on.
type stamp struct {
	set  unix.Timespec
	host unix.Timespec // the host's when it was set
}

func (s *stamp) apply(host *unix.Timespec) {
	if s != nil && *host == s.host {
		*host = s.set
	}
}

// permissions are the bits that chmod(2) sets.
const permissions = 0o7777

// capabilities is the attribute that holds a program's (capabilities(7)).
const capabilities = "security.capability"

// unprivileged is a mode without the set-id bits that a change of owner or content
// takes away: set-group-ID means something only with execution by the group.
func unprivileged(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// outdated takes set-id bits and file capabilities away once the content is another
// than that for which they were set, whoever wrote it. The kernel leaves this to a
// file system with FUSE_HANDLE_KILLPRIV_V2, and does not tell it of writes that
// are passed through; the host's mtime does.
func (m *metadata) outdated(host *unix.Stat_t) {
	if m.privileged == nil || *m.privileged == host.Mtim {
		return
	}
	m.privileged = nil
	if m.rights != nil {
		m.rights.mode = unprivileged(m.rights.mode)
	}
	if m.attributes[capabilities] != nil {
		m.attributes[capabilities] = nil
	}
}

// tick is more than what two writes with the same mtime can be apart: the host's
// kernel takes the time from its timer interrupt, of 100 Hz or more.
const tick = 20 * time.Millisecond

// ripen waits until a write would give the file another mtime than it has.
func ripen(host *unix.Stat_t) {
	if young := time.Since(time.Unix(host.Mtim.Unix())); young < tick {
		time.Sleep(min(tick, tick-young))
	}
}

// apply changes what the host's inode says into what the guest sees.
func (m *metadata) apply(host *inode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stat := &host.Stat_t
	m.outdated(stat)
	shown := rights{stat.Mode & permissions, host.list}
	if m.rights != nil {
		shown = *m.rights
	}
	stat.Mode = stat.Mode&^permissions | shown.list.Narrow(shown.mode)
	if m.uid != nil {
		stat.Uid = *m.uid
	}
	if m.gid != nil {
		stat.Gid = *m.gid
	}
	m.atime.apply(&stat.Atim)
	m.mtime.apply(&stat.Mtim)
	if host := time.Unix(stat.Ctim.Unix()); m.changed.After(host) {
		stat.Ctim = unix.NsecToTimespec(m.changed.UnixNano())
	}
}

// own are the rights, to be changed.
func (m *metadata) own(host *inode) *rights {
	if m.rights == nil {
		m.rights = &rights{host.Mode & permissions, host.list}
	}
	return m.rights
}

// set takes in what the guest sets.
func (m *metadata) set(in *fuse.SetAttrIn, host *inode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outdated(&host.Stat_t)
	uid, newOwner := in.GetUID()
	if newOwner {
		m.uid = &uid
	}
	gid, newGroup := in.GetGID()
	if newGroup {
		m.gid = &gid
	}
	if newOwner || newGroup {
		m.give(host)
	}
	if mode, ok := in.GetMode(); ok {
		mode &= permissions
		m.own(host).mode = mode
		if mode != unprivileged(mode) {
			m.privileged = new(host.Mtim)
		}
	}
	if atime, ok := in.GetATime(); ok {
		m.atime = &stamp{unix.NsecToTimespec(atime.UnixNano()), host.Atim}
	}
	if mtime, ok := in.GetMTime(); ok {
		m.mtime = &stamp{unix.NsecToTimespec(mtime.UnixNano()), host.Mtim}
	}
	m.changed = time.Now()
}

// give takes away what a file has when it gets another owner (chown(2)).
func (m *metadata) give(host *inode) {
	if mode := host.Mode & permissions; m.rights != nil || mode != unprivileged(mode) {
		own := m.own(host)
		own.mode = unprivileged(own.mode)
	}
	m.keep(capabilities, nil)
	m.privileged = nil
}

func (m *metadata) keep(name string, value []byte) {
	if m.attributes == nil {
		m.attributes = make(map[string][]byte)
	}
	m.attributes[name] = value
}

// attribute is an extended attribute that was set, or removed (nil). host is what
// the host's inode says.
func (m *metadata) attribute(name string, host *unix.Stat_t) (value []byte, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outdated(host)
	value, known = m.attributes[name]
	return value, known
}

// setAttribute keeps an extended attribute; nil removes it. host is what the host's
// inode says.
func (m *metadata) setAttribute(name string, value []byte, host *unix.Stat_t) error {
	if value != nil {
		value = append([]byte{}, value...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	size := len(name) + len(value)
	for other, content := range m.attributes {
		if other != name {
			size += len(other) + len(content)
		}
	}
	if size > maxAttributes {
		return unix.ENOSPC
	}
	m.outdated(host)
	m.keep(name, value)
	if name == capabilities && value != nil {
		m.privileged = new(host.Mtim)
	}
	m.changed = time.Now()
	return nil
}

// list changes the names that the host's inode has, each ended by a NUL, into
// those that the guest sees (listxattr(2)). stat is what the host's inode says.
func (m *metadata) list(host []byte, stat *unix.Stat_t) (names []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outdated(stat)
	for name := range bytes.SplitSeq(host, []byte{0}) {
		if _, known := m.attributes[string(name)]; len(name) > 0 && !known && keepable(string(name)) {
			names = append(append(names, name...), 0)
		}
	}
	for name, value := range m.attributes {
		if value != nil {
			names = append(append(names, name...), 0)
		}
	}
	return names
}

// keepable tells whether an attribute is data to a file system. Those of system.* are not
// (xattr(7)): an access control list would bind nobody, as the guest's kernel judges by modes.
func keepable(name string) bool { return !strings.HasPrefix(name, "system.") }

// attrOf is what FUSE calls a stat. The inode number is the entry's own.
func attrOf(stat *unix.Stat_t, out *fuse.Attr) {
	out.Size, out.Blocks = uint64(stat.Size), uint64(stat.Blocks)
	out.Atime, out.Atimensec = uint64(stat.Atim.Sec), uint32(stat.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(stat.Mtim.Sec), uint32(stat.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(stat.Ctim.Sec), uint32(stat.Ctim.Nsec)
	out.Mode, out.Nlink, out.Rdev = stat.Mode, uint32(stat.Nlink), 0
	out.Uid, out.Gid = stat.Uid, stat.Gid
	out.Blksize = uint32(stat.Blksize)
}
