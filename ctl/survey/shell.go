package survey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// farewell is how long the output of a program that has failed is waited for.
const farewell = time.Second

// A Program is one that a shim is to run in its guest.
type Program struct {
	// Tools is the directory that has it, Args begin with its name there.
	Tools string
	Args  []string

	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Terminal is what the program has, over stdin and stdout: there is no stderr then. nil is none.
	Terminal *Terminal
}

// A Terminal is the caller's, as the program's is to be.
type Terminal struct {
	Term  string // $TERM
	Size  Size
	Sizes <-chan Size // those that it has later
}

// A Size is that of a terminal in characters, 0 where it is not known.
type Size struct{ Rows, Columns uint16 }

// Run has a sandbox's shim run a program in the guest, and returns its exit status. FIFOs for its
// streams are made below dir, which containerd has to see, and go with it, or, if this process is
// killed, with the next program that is run. When ctx ends, or what
// the program prints cannot be written, the program is killed; nobody waits for its output then.
func (h Host) Run(ctx context.Context, s Sandbox, dir string, p Program) (status uint32, err error) {
	switch s.State {
	case Hung:
		return 0, s.errHung(h.Patience)
	case Lost:
		return 0, s.ErrLost()
	}
	own, err := makeFIFOs(dir)
	if err != nil {
		return 0, err
	}
	defer own.remove()
	var in, out, errs fifo
	fifos := map[string]*fifo{"in": &in, "out": &out}
	if p.Terminal == nil {
		fifos["err"] = &errs
	}
	for name, f := range fifos {
		if err := f.open(filepath.Join(own.path, name)); err != nil {
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
	if p.Terminal == nil {
		output.Go(func() { show(p.Stderr, errs.r) })
	}
	printed := make(chan struct{})
	go func() { output.Wait(); close(printed) }()
	answer, err := p.run(ctx, api.NewShellClient(client), &api.RunRequest{
		Tools: p.Tools, Args: p.Args, Stdin: in.path, Stdout: out.path, Stderr: errs.path, Pid: int32(os.Getpid()),
	})
	// All output is in the FIFOs: there is an end after it now.
	out.w.Close()
	errs.w.Close() // of none an error
	var late <-chan time.Time
	if err != nil { // a shim that is not there may have left them open
		late = time.After(farewell)
	}
	select {
	case <-printed:
	case <-ctx.Done():
	case <-late:
	}
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if err != nil {
		return 0, p.explain(s, err)
	}
	return answer.GetStatus(), nil
}

// explain is what an error of a shim's means.
func (p Program) explain(s Sandbox, err error) error {
	closed := errors.Is(err, ttrpc.ErrClosed)
	err = errgrpc.ToNative(err)
	switch {
	case closed:
		return s.ErrLost()
	case errdefs.IsNotImplemented(err) && p.Terminal != nil:
		return s.errOlder("has no terminal for a program: -T runs it without one")
	case errdefs.IsNotImplemented(err):
		return s.errOlder("runs nothing in a guest")
	}
	return err
}

// run asks the shim to run the program, and tells it the sizes of its terminal until ctx ends.
func (p Program) run(ctx context.Context, client api.ShellClient, request *api.RunRequest) (*api.RunResponse, error) {
	if p.Terminal == nil {
		return client.Run(ctx, request)
	}
	stream, err := client.RunInTerminal(ctx)
	if err != nil {
		return nil, err
	}
	send := func(request *api.RunRequest, size Size) error {
		return stream.Send(&api.TerminalRequest{Run: request, Term: p.Terminal.Term, Rows: uint32(size.Rows), Columns: uint32(size.Columns)})
	}
	if err := send(request, p.Terminal.Size); err != nil {
		return nil, err
	}
	go func() {
		for {
			select {
			case size := <-p.Terminal.Sizes:
				if send(nil, size) != nil {
					return // it has ended
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return stream.Recv()
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
