package survey

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// A shell is how a shim runs programs.
type shell func(context.Context, *api.RunRequest) (*api.RunResponse, error)

func (s shell) Run(ctx context.Context, r *api.RunRequest) (*api.RunResponse, error) {
	return s(ctx, r)
}

// failing is where nothing can be written any more.
type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

// run has a shim run a program as a function does.
func (w world) run(ctx context.Context, run shell, stdout io.Writer) (uint32, error) {
	w.t.Helper()
	socket, address := w.listen()
	server, err := ttrpc.NewServer()
	w.must(err)
	api.RegisterShellService(server, run)
	serving, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = server.Serve(serving, socket) }()
	dir := w.t.TempDir()
	status, err := w.host.Run(ctx, Sandbox{Namespace: "n", ID: "i", State: Running, Address: address}, dir,
		Program{Args: []string{"p"}, Stdin: strings.NewReader("in"), Stdout: stdout, Stderr: io.Discard})
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		w.t.Errorf("%v is left", entries)
	}
	return status, err
}

// print writes to a FIFO of the caller's, which stays open.
func print(path, text string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteString(text)
	}
	return file, err
}

func TestRunProgram(t *testing.T) {
	w := newWorld(t)
	var out strings.Builder
	status, err := w.run(t.Context(), func(_ context.Context, r *api.RunRequest) (*api.RunResponse, error) {
		file, err := print(r.GetStdout(), strings.Join(r.GetArgs(), " ")+"\n")
		if err == nil {
			err = file.Close()
		}
		return &api.RunResponse{Status: 7}, err
	}, &out)
	if status != 7 || err != nil || out.String() != "p\n" {
		t.Errorf("status %d, %v, %q", status, err, out.String())
	}
}

// A shim that hangs keeps nobody who goes away, and a program whose output cannot be written is not
// waited for, nor taken for one that has ended well.
func TestRunGivenUp(t *testing.T) {
	full := errors.New("no space left")
	for name, c := range map[string]struct {
		stdout io.Writer
		want   error
	}{
		"by a signal":            {io.Discard, context.Canceled},
		"what it prints is lost": {failing{full}, full},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := newWorld(t)
			hung := make(chan struct{})
			done := make(chan error, 1)
			go func() {
				_, err := w.run(ctx, func(_ context.Context, r *api.RunRequest) (*api.RunResponse, error) {
					// Its end of the FIFO stays open, as that of a shim that was stopped.
					file, err := print(r.GetStdout(), "text")
					if err != nil {
						return nil, err
					}
					defer file.Close()
					if errors.Is(c.want, context.Canceled) {
						cancel()
					}
					<-hung
					return new(api.RunResponse), nil
				}, c.stdout)
				done <- err
			}()
			select {
			case err := <-done:
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			case <-time.After(time.Minute):
				t.Error("it still waits")
			}
			close(hung)
		})
	}
}
