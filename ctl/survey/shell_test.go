package survey

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// A shell is how a shim runs programs.
type shell func(context.Context, *api.RunRequest) (*api.RunResponse, error)

func (s shell) Run(ctx context.Context, r *api.RunRequest) (*api.RunResponse, error) {
	return s(ctx, r)
}

func (s shell) RunInTerminal(context.Context, api.Shell_RunInTerminalServer) error {
	return errors.New("in a terminal")
}

// failing is where nothing can be written any more.
type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

// run has a shim run a program as a function does.
func (w world) run(ctx context.Context, run shell, stdout io.Writer) (uint32, error) {
	w.t.Helper()
	register := func(server *ttrpc.Server) { api.RegisterShellService(server, run) }
	return w.runProgram(ctx, register, Program{Args: []string{"p"}, Stdin: strings.NewReader("in"), Stdout: stdout, Stderr: io.Discard})
}

// runProgram has a shim with some services run a program.
func (w world) runProgram(ctx context.Context, register func(*ttrpc.Server), p Program) (uint32, error) {
	w.t.Helper()
	socket, address := w.listen()
	server, err := ttrpc.NewServer()
	w.must(err)
	register(server)
	serving, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = server.Serve(serving, socket) }()
	dir := w.t.TempDir()
	status, err := w.host.Run(ctx, Sandbox{Namespace: "n", ID: "i", State: Running, Address: address}, dir, p)
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

// The FIFOs of who was killed go with the next program. What somebody has, or nobody has made for that,
// stays.
func TestLeftFIFOs(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "msb")
	inUse, err := makeFIFOs(dir)
	w.must(err)
	elsewhere := t.TempDir()
	w.must(errors.Join(
		os.Mkdir(filepath.Join(dir, "shell-left"), 0o700), unix.Mkfifo(filepath.Join(dir, "shell-left", "in"), 0o600),
		os.Mkdir(filepath.Join(dir, "other"), 0o700), os.WriteFile(filepath.Join(dir, "shell-file"), nil, 0o600),
		os.Symlink(elsewhere, filepath.Join(dir, "shell-link")),
	))
	names := func() (names []string) {
		entries, err := os.ReadDir(dir)
		w.must(err)
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return names
	}
	own, err := makeFIFOs(dir)
	w.must(err)
	want := []string{"other", "shell-file", "shell-link", filepath.Base(inUse.path), filepath.Base(own.path)}
	slices.Sort(want)
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
	_ = inUse.lock.Close() // as by the end of its process
	_ = own.lock.Close()
	sweepFIFOs(dir)
	if got := names(); !slices.Equal(got, []string{"other", "shell-file", "shell-link"}) {
		t.Errorf("when nobody has any, there are %q", got)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
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

// An inTerminal is how a shim runs programs in a terminal.
type inTerminal func(api.Shell_RunInTerminalServer) error

func (inTerminal) Run(context.Context, *api.RunRequest) (*api.RunResponse, error) {
	return nil, errors.New("without a terminal")
}

func (s inTerminal) RunInTerminal(_ context.Context, stream api.Shell_RunInTerminalServer) error {
	return s(stream)
}

// The shim is told of the terminal, and of each size that it has; one after the program's end is told
// nobody.
func TestRunInTerminal(t *testing.T) {
	sizes := make(chan Size, 1)
	var out strings.Builder
	program := Program{
		Args: []string{"p"}, Stdin: strings.NewReader(""), Stdout: &out,
		Terminal: &Terminal{Term: "vt100", Size: Size{24, 80}, Sizes: sizes},
	}
	status, err := newWorld(t).runProgram(t.Context(), func(server *ttrpc.Server) {
		api.RegisterShellService(server, inTerminal(func(stream api.Shell_RunInTerminalServer) error {
			first, err := stream.Recv()
			if err != nil {
				return err
			}
			if first.GetRun().GetArgs()[0] != "p" || first.GetRun().GetStderr() != "" || first.GetTerm() != "vt100" || first.GetRows() != 24 || first.GetColumns() != 80 {
				t.Errorf("it is asked %v", first)
			}
			file, err := print(first.GetRun().GetStdout(), "text")
			if err != nil {
				return err
			}
			defer file.Close()
			sizes <- Size{1, 65535}
			if next, err := stream.Recv(); err != nil || next.GetRun() != nil || next.GetRows() != 1 || next.GetColumns() != 65535 {
				t.Errorf("then %v, %v", next, err)
			}
			return stream.Send(&api.RunResponse{Status: 7})
		}))
	}, program)
	sizes <- Size{2, 2}
	if status != 7 || err != nil || out.String() != "text" {
		t.Errorf("status %d, %v, %q", status, err, out.String())
	}
}

// A shim that knows no terminals, and one that goes away, are told in one sentence.
func TestRunInTerminalRefused(t *testing.T) {
	for name, c := range map[string]struct {
		register func(*ttrpc.Server)
		want     string
	}{
		"a shim that has streams only": {func(server *ttrpc.Server) {
			server.RegisterService("msb.shell.v1.Shell", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
				"Run": func(context.Context, func(any) error) (any, error) {
					t.Error("it runs without a terminal")
					return new(api.RunResponse), nil
				},
			}})
		}, "the shim of n/i is of an older msb, which has no terminal for a program: -T runs it without one"},
		"a shim that runs nothing": {func(*ttrpc.Server) {}, "has no terminal for a program"},
		"a shim that is killed": {func(server *ttrpc.Server) {
			api.RegisterShellService(server, inTerminal(func(stream api.Shell_RunInTerminalServer) error {
				first, err := stream.Recv()
				if err != nil {
					return err
				}
				file, err := print(first.GetRun().GetStdout(), "text") // and it has no end
				if err == nil {
					t.Cleanup(func() { file.Close() })
				}
				return errors.Join(err, server.Close())
			}))
		}, "the shim of n/i has ended or was killed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newWorld(t).runProgram(t.Context(), c.register, Program{
				Args: []string{"p"}, Stdin: strings.NewReader(""), Stdout: io.Discard, Terminal: new(Terminal),
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
		})
	}
}
