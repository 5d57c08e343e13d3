// Package transfer moves archives out of containers' file systems and into them. A helper
// does it, a process of the agent's program: it enters the mount namespace of the container
// and so sees what the container sees, mounts and all, and what it cannot leave. What an
// archive does to it is not done to the agent.
//
// The namespace is kept from the container's creation to its removal, so there is one before
// its start and after its end, too.
package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/copying"
)

const (
	// grace is what a helper has to take away what it has begun to write, before it is killed.
	grace = 5 * time.Second
	// maxText is the longest text of a helper's error, in bytes.
	maxText = 4 << 10
)

// over is a deadline that ends what waits.
var over = time.Unix(1, 0)

// Roots are the file systems of the guest's containers. Its methods may be called
// concurrently.
type Roots struct {
	guide guide

	mu    sync.Mutex
	roots map[string]*root // by container id; guarded by mu
}

// New returns none yet.
func New() *Roots { return &Roots{roots: make(map[string]*root)} }

// A root is what a helper needs of a container.
type root struct {
	namespace    *os.File // its mount namespace
	users        idMap
	groups       idMap
	life         context.Context // ends with the container
	end          context.CancelFunc
	transferring sync.WaitGroup
}

// Keep keeps the file system of a container whose init has the process id pid.
func (r *Roots) Keep(container string, pid uint32) error {
	namespace, err := os.Open(api.NamespacePath(pid, "mnt"))
	if err != nil {
		return err
	}
	kept := &root{namespace: namespace}
	for file, ids := range map[string]*idMap{"uid_map": &kept.users, "gid_map": &kept.groups} {
		if *ids, err = readIDMap(fmt.Sprintf("/proc/%d/%s", pid, file)); err != nil {
			namespace.Close()
			return err
		}
	}
	kept.life, kept.end = context.WithCancel(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots[container] != nil {
		namespace.Close()
		return fmt.Errorf("the file system of container %s is kept: %w", container, errdefs.ErrAlreadyExists)
	}
	r.roots[container] = kept
	return nil
}

// Drop ends the transfers of a container and lets go of its file system. A container that
// has none is passed over.
func (r *Roots) Drop(container string) {
	r.mu.Lock()
	kept := r.roots[container]
	delete(r.roots, container)
	r.mu.Unlock()
	if kept == nil {
		return
	}
	kept.end()
	kept.transferring.Wait()
	kept.namespace.Close()
}

// use finds a container's file system. The caller calls transferring.Done.
func (r *Roots) use(container string) (*root, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.roots[container]
	if kept == nil {
		return nil, fmt.Errorf("container %s has no file system in the guest: %w", container, errdefs.ErrNotFound)
	}
	kept.transferring.Add(1)
	return kept, nil
}

// Serve does a transfer over a stream of the host, and owns the stream.
func (r *Roots) Serve(ctx context.Context, stream net.Conn, header *api.TransferStream) {
	defer stream.Close()
	if err := api.ReplyStream(stream, nil); err != nil {
		return
	}
	kept, err := r.use(header.Container)
	if err == nil {
		err = kept.transfer(stream, header)
		kept.transferring.Done()
	}
	result := status.Convert(errgrpc.ToGRPC(err))
	if err := api.SendTransfer(stream, &api.TransferFrame{Result: &api.TransferResult{Code: uint32(result.Code()), Error: result.Message()}}); err != nil {
		log.G(ctx).WithError(err).Debug("the host has left a transfer")
	}
}

// transfer runs a helper and connects it with the stream.
func (k *root) transfer(stream net.Conn, header *api.TransferStream) error {
	helper, err := k.start(header)
	if err != nil {
		return err
	}
	defer context.AfterFunc(k.life, func() {
		_ = stream.SetDeadline(over) // the host may neither read nor write
		helper.stop()
	})()
	if header.Direction == api.TransferStream_IMPORT {
		err = helper.feed(stream)
	} else {
		err = helper.drain(stream)
	}
	<-helper.ended
	switch {
	case k.life.Err() != nil:
		return fmt.Errorf("container %s was deleted during the transfer: %w", header.Container, errdefs.ErrNotFound)
	case helper.err != nil:
		return helper.err
	}
	return err
}

// A helper is a process that packs or unpacks an archive.
type helper struct {
	cmd   *exec.Cmd
	pipe  *os.File      // the agent's end of the archive
	ended chan struct{} // closed when it has ended
	err   error         // that it ended with; readable after ended
}

// start starts a helper.
func (k *root) start(header *api.TransferStream) (*helper, error) {
	order, err := json.Marshal(order{
		Import: header.Direction == api.TransferStream_IMPORT, Path: header.Path,
		NoWalk: header.NoWalk, PreserveOwnership: header.PreserveOwnership, Users: k.users, Groups: k.groups,
	})
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	h := &helper{cmd: exec.Command(api.Init, HelperCommand, string(order)), pipe: reader, ended: make(chan struct{})}
	theirs := writer
	if header.Direction == api.TransferStream_IMPORT {
		h.pipe, theirs = writer, reader
		h.cmd.Stdin = theirs
	} else {
		h.cmd.Stdout = theirs
	}
	text := new(head)
	h.cmd.Stderr = text
	h.cmd.ExtraFiles = []*os.File{k.namespace}
	// PID 1 reaps every process.
	exits, err := reaper.Default.Start(h.cmd)
	theirs.Close()
	if err != nil {
		h.pipe.Close()
		return nil, fmt.Errorf("starting the helper for a transfer: %w", err)
	}
	go func() {
		code, err := reaper.Default.Wait(h.cmd, exits)
		if err == nil {
			err = failure(code, text.String())
		}
		h.err = err
		close(h.ended)
	}()
	return h, nil
}

// failure is what a helper's exit code says, which is one of gRPC's, and its text.
func failure(code int, text string) error {
	switch {
	case code == 0:
		return nil
	case code > int(codes.Unauthenticated) || text == "":
		return fmt.Errorf("the helper for a transfer ended with status %d: %s: %w", code, text, errdefs.ErrAborted)
	}
	return errgrpc.ToNative(status.Error(codes.Code(code), text))
}

// stop ends a helper: at the end of its archive by itself, or else it is killed.
func (h *helper) stop() {
	h.pipe.Close()
	go func() {
		select {
		case <-h.ended:
		case <-time.After(grace):
			_ = h.cmd.Process.Kill()
		}
	}()
}

// feed gives a helper the archive from the host.
func (h *helper) feed(stream net.Conn) error {
	defer h.pipe.Close()
	go func() {
		<-h.ended // it may not have wanted the rest
		_ = stream.SetReadDeadline(over)
	}()
	err := copying.Through(api.TransferChunk, h.pipe, stream)
	if err != nil {
		h.stop()
	}
	return err
}

// drain sends the host the archive of a helper.
func (h *helper) drain(stream net.Conn) error {
	defer h.pipe.Close()
	go func() {
		_, _ = io.Copy(io.Discard, stream) // the host sends nothing: it has left
		h.stop()
	}()
	err := copying.Through(api.TransferChunk, frames{stream}, h.pipe)
	if err != nil {
		h.stop()
	}
	return err
}

// frames writes pieces of an archive as frames.
type frames struct{ stream io.Writer }

func (f frames) Write(p []byte) (int, error) {
	if err := api.SendTransfer(f.stream, &api.TransferFrame{Data: p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// head keeps the beginning of a text.
type head struct{ strings.Builder }

func (h *head) Write(p []byte) (int, error) {
	_, _ = h.Builder.Write(p[:min(len(p), maxText-h.Len())])
	return len(p), nil
}
