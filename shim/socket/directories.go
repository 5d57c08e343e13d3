package socket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

const (
	// lookPause is the least time between two looks, however much changes: it bounds what
	// a guest can have the host do by changing its directories.
	lookPause = time.Second
	// lookShare is of how many parts of the time a look takes one at most: directories that
	// change all the time may be large, or on a slow file system.
	lookShare = 20
	// settling is how long after a change the next look begins: who makes a socket sets its
	// mode and owner after that.
	settling = 100 * time.Millisecond
)

// A Directory is one that a container mounts.
type Directory struct {
	// Share is its tag in the pool, Destination its place in the container.
	Share, Destination string
	// File is the share's, opened with O_PATH.
	File *os.File
	// OneMount leaves out what is mounted below it. A mount that came from the host and is
	// held open here could not be unmounted there any more.
	OneMount bool
}

func (d Directory) resolve() uint64 {
	if d.OneMount {
		return unix.RESOLVE_NO_XDEV
	}
	return 0
}

// Directories forwards the sockets in the directories that one container mounts. It looks
// for them, and looks again when one of the directories that it has read was changed. That
// the kernel tells by a signal (fcntl(2), "File and directory change notification"): unlike
// inotify and fanotify, of which root has 128 instances on a host, it costs the host
// nothing but open descriptors.
type Directories struct {
	table      *Table
	identities *Identities
	dirs       []Directory
	first      chan struct{} // closed when what was found first was told
	ended      chan struct{} // closed with Run
	cancel     context.CancelFunc
	warned     map[string]string // what was told, by what it is about; Run's

	mu        sync.Mutex
	looks     int                 // guarded by mu
	forwarded map[place]forwarded // guarded by mu; nil after Close
	watched   []*os.File          // guarded by mu
}

// A place is a path below one of the directories.
type place struct {
	dir  int
	path string
}

// forwarded is a socket that is.
type forwarded struct {
	seen
	tag string
}

// Forward forwards the sockets in the directories of a container that identities are of,
// until Close. tell is told all of them when there are others than before, one call after
// the other. The files are the caller's until Forward returns, and closed after Close.
func (t *Table) Forward(ctx context.Context, dirs []Directory, identities *Identities, tell func(context.Context, []*api.DirectorySocket) error) *Directories {
	ctx, cancel := context.WithCancel(ctx)
	d := &Directories{
		table: t, identities: identities, dirs: dirs, cancel: cancel,
		first: make(chan struct{}), ended: make(chan struct{}),
		warned: make(map[string]string), forwarded: make(map[place]forwarded),
	}
	go d.run(ctx, tell)
	return d
}

// Await waits until what was there at first was told, for as long as ctx allows: a file
// system may not answer.
func (d *Directories) Await(ctx context.Context) {
	select {
	case <-d.first:
	case <-ctx.Done():
	}
}

// closePatience is how long Close waits for a look that is under way. One into a file system
// that does not answer ends by itself, if ever.
const closePatience = time.Second

// Close takes all of the sockets from the guest, and ends their connections.
func (d *Directories) Close() (err error) {
	d.cancel()
	d.mu.Lock()
	for _, one := range d.forwarded {
		err = errors.Join(err, d.table.Remove(one.tag))
	}
	d.forwarded = nil
	d.mu.Unlock()
	select {
	case <-d.ended:
	case <-time.After(closePatience):
	}
	return err
}

// run looks until ctx ends.
func (d *Directories) run(ctx context.Context, tell func(context.Context, []*api.DirectorySocket) error) {
	defer close(d.ended)
	defer d.closeFiles()
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGIO)
	defer signal.Stop(changes)
	for first := true; ctx.Err() == nil; first = false {
		start := time.Now()
		sockets, changed := d.look(ctx)
		next := start.Add(max(lookPause, lookShare*time.Since(start)))
		if changed {
			if err := tell(ctx, sockets); err != nil && ctx.Err() == nil {
				log.G(ctx).WithError(err).Warn("sockets of the host in mounted directories are not reached")
			}
		}
		if first {
			close(d.first)
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(max(time.Until(next), settling)):
		case <-ctx.Done():
		}
	}
}

func (d *Directories) closeFiles() {
	d.mu.Lock()
	defer d.mu.Unlock()
	closeAll(d.watched)
	for _, dir := range d.dirs {
		dir.File.Close()
	}
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// look finds the sockets that there are now, and tells whether they are others than before.
func (d *Directories) look(ctx context.Context) (sockets []*api.DirectorySocket, changed bool) {
	l := look{watch: notify}
	found := make(map[place]seen)
	var order []place
	var roots []root
	for _, dir := range d.dirs {
		roots = append(roots, root{dir.File, dir.resolve()})
	}
	for _, one := range append(d.again(roots), l.sockets(roots...)...) {
		at := place{one.dir, one.path}
		if _, twice := found[at]; !twice {
			order = append(order, at)
		}
		found[at] = one
	}
	if l.blind != nil {
		d.warn(ctx, "changes", "sockets of the host that appear later in mounted directories are not reached: %v", l.blind)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	closeAll(d.watched)
	d.watched = l.dirs
	if d.forwarded == nil {
		return nil, false
	}
	chosen, left := choose(d.forwarded, order, found)
	if left > 0 {
		d.warn(ctx, "sockets", "%d sockets of the host in mounted directories are forwarded, which is the most for a container; %d are not: mount those themselves", MaxSockets, left)
	}
	if bound := l.exceeded.String(); bound != "" {
		d.warn(ctx, "look", "looking for sockets of the host in mounted directories ended after %s, which is the most for a container: those beyond are not reached: mount them themselves", bound)
	}
	return d.take(ctx, chosen, found)
}

// again looks at the sockets that are forwarded, which a look through directories that have
// grown might not come to any more.
func (d *Directories) again(roots []root) (found []seen) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := range d.forwarded {
		if one, ok := see(roots[at.dir], at.path); ok {
			one.dir = at.dir
			found = append(found, one)
		}
	}
	return found
}

// warn tells of something once.
func (d *Directories) warn(ctx context.Context, about, format string, args ...any) {
	if d.warned[about] == "" {
		d.warned[about] = fmt.Sprintf(format, args...)
		log.G(ctx).Warn(d.warned[about])
	}
}

// choose decides which of the sockets that were found are forwarded: those that were before
// and have not been replaced, also if their servers are away, and others on which somebody
// listens, up to a number. It tells how many are left out.
func choose(before map[place]forwarded, order []place, found map[place]seen) (chosen []place, left int) {
	stays := func(at place) bool {
		old, known := before[at]
		return known && (found[at].served || found[at].is(old.seen))
	}
	for _, at := range order {
		if stays(at) {
			chosen = append(chosen, at)
		}
	}
	for _, at := range order {
		switch {
		case stays(at) || !found[at].served:
		case len(chosen) < MaxSockets:
			chosen = append(chosen, at)
		default:
			left++
		}
	}
	return chosen, left
}

// take makes those that were chosen the ones that are forwarded. The caller holds d.mu.
func (d *Directories) take(ctx context.Context, chosen []place, found map[place]seen) (sockets []*api.DirectorySocket, changed bool) {
	now := make(map[place]forwarded, len(chosen))
	for _, at := range chosen {
		one, known := d.forwarded[at]
		if !known {
			var err error
			if one.tag, err = d.table.addBelow(d.dirs[at.dir], at.path, d.identities); err != nil {
				d.warn(ctx, "forwarding", "sockets of the host in mounted directories are not reached: %v", err)
				continue
			}
		}
		changed = changed || !known || !found[at].is(one.seen)
		one.seen = found[at]
		now[at] = one
		dir := d.dirs[at.dir]
		sockets = append(sockets, &api.DirectorySocket{
			Tag: one.tag, Share: dir.Share, Destination: dir.Destination, Path: []byte(at.path),
			Mode: one.mode, Uid: one.uid, Gid: one.gid,
		})
	}
	for at, old := range d.forwarded {
		if _, stays := now[at]; !stays {
			changed = true
			if err := d.table.Remove(old.tag); err != nil {
				log.G(ctx).WithError(err).Warn("taking back a socket")
			}
		}
	}
	d.forwarded = now
	return sockets, changed
}

// addBelow lets a container connect to whatever socket has a path below a directory, and
// returns its tag.
func (t *Table) addBelow(dir Directory, path string, identities *Identities) (tag string, err error) {
	file, err := duplicate(dir.File)
	if err != nil {
		return "", err
	}
	s := &Socket{file: file, below: path, resolve: dir.resolve(), path: dir.Destination + "/" + path, identities: identities, judged: true}
	t.add(s)
	return s.Tag, nil
}

// The changes of a directory that a process can be told of (linux/fcntl.h).
const (
	dnCreate = 0x4
	dnDelete = 0x8
	dnRename = 0x10
	dnAttrib = 0x20
)

// notify has the kernel send SIGIO to this process, once, when something in a directory gets
// or loses a name, or another owner or mode.
func notify(dir *os.File) error {
	// The kernel's choice would be the calling thread, which may end.
	if _, err := unix.FcntlInt(dir.Fd(), unix.F_SETOWN, os.Getpid()); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if _, err := unix.FcntlInt(dir.Fd(), unix.F_NOTIFY, dnCreate|dnDelete|dnRename|dnAttrib); err != nil {
		return fmt.Errorf("the host's kernel does not tell of changes (CONFIG_DNOTIFY, sysctl fs.dir-notify-enable): %w", os.NewSyscallError("fcntl", err))
	}
	return nil
}
