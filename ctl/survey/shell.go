package survey

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// A Program is one that a shim is to run in its guest.
type Program struct {
	// Tools is the directory that has it, Args begin with its name there.
	Tools string
	Args  []string

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run has a sandbox's shim run a program in the guest, and returns its exit status. FIFOs for its
// streams are made below dir, which containerd has to see, and go with it. When ctx ends, or what
// the program prints cannot be written, the program is killed; nobody waits for its output then.
func (h Host) Run(ctx context.Context, s Sandbox, dir string, p Program) (status uint32, err error) {
	switch s.State {
	case Hung:
		return 0, fmt.Errorf("the shim of %s/%s does not answer within %s", s.Namespace, s.ID, h.Patience)
	case Lost:
		return 0, fmt.Errorf("the shim of %s/%s has ended or was killed", s.Namespace, s.ID)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if dir, err = os.MkdirTemp(dir, "shell-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var in, out, errs fifo
	for _, f := range []struct {
		*fifo
		name string
	}{{&in, "in"}, {&out, "out"}, {&errs, "err"}} {
		if err := f.open(filepath.Join(dir, f.name)); err != nil {
			return 0, err
		}
		defer f.close()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client, err := connect(ctx, s.Address)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	go func() { // until the program has ended: who types is not to be interrupted
		_, _ = io.Copy(in.w, p.Stdin)
		_ = in.w.Close()
	}()
	var output sync.WaitGroup
	show := func(to io.Writer, from *os.File) {
		if _, err := io.Copy(to, from); err != nil {
			cancel(fmt.Errorf("what the program prints is not written: %w", err))
		}
	}
	output.Go(func() { show(p.Stdout, out.r) })
	output.Go(func() { show(p.Stderr, errs.r) })
	printed := make(chan struct{})
	go func() { output.Wait(); close(printed) }()
	answer, err := api.NewShellClient(client).Run(ctx, &api.RunRequest{
		Tools: p.Tools, Args: p.Args, Stdin: in.path, Stdout: out.path, Stderr: errs.path, Pid: int32(os.Getpid()),
	})
	// All output is in the FIFOs: there is an end after it now.
	out.w.Close()
	errs.w.Close()
	select {
	case <-printed:
	case <-ctx.Done():
	}
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if err != nil {
		if err = errgrpc.ToNative(err); errdefs.IsNotImplemented(err) {
			err = fmt.Errorf("the shim of %s/%s is of an older msb, which runs nothing in a guest", s.Namespace, s.ID)
		}
		return 0, err
	}
	return answer.GetStatus(), nil
}

// A fifo has both of its ends open, so that it keeps what is in it, and has no end, until the shim
// has opened it, too.
type fifo struct {
	path string
	r, w *os.File
}

func (f *fifo) open(path string) (err error) {
	f.path = path
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if f.r, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	if f.w, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		f.r.Close()
	}
	return err
}

func (f *fifo) close() {
	f.r.Close()
	f.w.Close()
}
