package fake

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// streams are the open standard streams of the guest, as in guest/stdio.
type streams struct {
	mu      sync.Mutex
	inputs  map[string]*input  // by id; guarded by mu
	outputs map[string]*output // by id; guarded by mu
}

func newStreams() *streams {
	return &streams{inputs: make(map[string]*input), outputs: make(map[string]*output)}
}

// add opens a stream, and returns what serves it once the host has been told.
func (s *streams) add(stream *api.StdioStream, conn net.Conn) (func(net.Conn), error) {
	if err := api.CheckName("stream id", stream.Id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inputs[stream.Id] != nil || s.outputs[stream.Id] != nil {
		return nil, fmt.Errorf("stream %s is open: %w", stream.Id, errdefs.ErrAlreadyExists)
	}
	if stream.Direction == api.StdioStream_INPUT {
		in := newInput(conn)
		s.inputs[stream.Id] = in
		return func(net.Conn) {
			copyInput(in, conn)
			s.close(stream.Id)
		}, nil
	}
	s.outputs[stream.Id] = &output{conn: conn, end: func() { s.close(stream.Id) }}
	return func(net.Conn) {
		// The host sends nothing: the end of this is that it gave the stream up.
		_, _ = io.Copy(io.Discard, conn)
		s.close(stream.Id)
	}, nil
}

// copyInput hands a host's bytes to a process until the host ends its direction.
func copyInput(in io.Writer, stream net.Conn) { _, _ = io.Copy(in, stream) }

// close ends a stream; one that is not open is passed over.
func (s *streams) close(id string) {
	s.mu.Lock()
	in, out := s.inputs[id], s.outputs[id]
	delete(s.inputs, id)
	delete(s.outputs, id)
	s.mu.Unlock()
	if in != nil {
		in.end()
	}
	if out != nil {
		out.conn.Close()
	}
}

// input finds an open stream by the path that the host gives for it. An empty path is a
// process without one.
func (s *streams) input(file string) (*input, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return find(s.inputs, file)
}

func (s *streams) output(file string) (*output, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return find(s.outputs, file)
}

func find[T any](open map[string]*T, file string) (*T, error) {
	if file == "" {
		return nil, nil
	}
	stream := open[path.Base(file)]
	if stream == nil || file != api.StdioPath(path.Base(file)) {
		return nil, &os.PathError{Op: "open", Path: file, Err: unix.ENOENT}
	}
	return stream, nil
}

func (s *streams) left() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.inputs {
		names = append(names, "input stream "+id)
	}
	for id := range s.outputs {
		names = append(names, "output stream "+id)
	}
	return names
}

// An input is a stdin. Its reader sees the end when the host has ended the stream and
// the task service has closed its own end too (CloseIO).
type input struct {
	conn net.Conn
	r    *io.PipeReader
	w    *io.PipeWriter

	mu              sync.Mutex
	ended, released bool // guarded by mu
}

func newInput(conn net.Conn) *input {
	in := &input{conn: conn}
	in.r, in.w = io.Pipe()
	return in
}

// Write implements io.Writer.
func (in *input) Write(p []byte) (int, error) { return in.w.Write(p) }

func (in *input) end() {
	in.conn.Close()
	in.close(&in.ended)
}

func (in *input) release() { in.close(&in.released) }

func (in *input) close(which *bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	*which = true
	if in.ended && in.released {
		in.w.Close()
	}
}

// An output is a stdout or a stderr.
type output struct {
	conn net.Conn
	end  func() // tells the host that no more comes
}

// Write implements io.Writer. With nil the output goes nowhere.
func (o *output) Write(p []byte) (int, error) {
	if o == nil {
		return len(p), nil
	}
	return o.conn.Write(p)
}

// interrupt has Write fail from now on.
func (o *output) interrupt() {
	if o != nil {
		_ = o.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

// socketpair is a connection that is in no file system.
func socketpair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	conns := make([]*net.UnixConn, len(fds))
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(file) // duplicates it
		file.Close()
		if err != nil {
			return nil, nil, err
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}

// wait waits for a process's end or the caller's.
func wait(ctx context.Context, exited <-chan struct{}) error {
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
