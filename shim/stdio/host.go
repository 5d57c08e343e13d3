package stdio

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// sinks are where a process's output goes on the host.
type sinks struct {
	stdout, stderr io.Writer
	closers        []io.Closer
}

// openSinks opens what stdout names, and stderr unless a terminal joins it.
func openSinks(ctx context.Context, id string, config Config) (opened sinks, err error) {
	uri, err := url.Parse(config.Stdout)
	if err != nil {
		return sinks{}, fmt.Errorf("stdout %q: %w (%w)", config.Stdout, err, errdefs.ErrInvalidArgument)
	}
	switch uri.Scheme {
	case "", "fifo":
		return openFIFOs(ctx, config)
	case "file":
		err = config.Mounts.Do(func() (err error) {
			opened, err = openFile(uri.Path, config.Terminal)
			return err
		})
		return opened, err
	case "binary", "binary-v2":
		return openProgram(ctx, id, uri, config.Terminal)
	}
	return sinks{}, fmt.Errorf("stdout %q: unknown scheme %s: %w", config.Stdout, uri.Scheme, errdefs.ErrInvalidArgument)
}

// openFIFOs opens the FIFOs of output, both within the time that the client has for that.
func openFIFOs(ctx context.Context, config Config) (s sinks, err error) {
	ctx, cancel := context.WithTimeout(ctx, config.OpenedWithin)
	defer cancel()
	if config.Stdout != "" {
		if s.stdout, err = s.fifo(ctx, config.Mounts, "stdout", config.Stdout); err != nil {
			return s.undo(err)
		}
	}
	if config.Stderr != "" && !config.Terminal {
		if s.stderr, err = s.fifo(ctx, config.Mounts, "stderr", config.Stderr); err != nil {
			return s.undo(err)
		}
	}
	return s, nil
}

func (s sinks) undo(err error) (sinks, error) {
	for _, closer := range s.closers {
		closer.Close()
	}
	return sinks{}, err
}

// fifo opens a FIFO for writing.
func (s *sinks) fifo(ctx context.Context, mounts mountns.Namespace, stream, path string) (io.Writer, error) {
	file, err := openOutput(ctx, mounts, path)
	if err != nil {
		return nil, wrap(stream, path, err)
	}
	s.closers = append(s.closers, file)
	return file, nil
}

func openFile(path string, terminal bool) (sinks, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return sinks{}, wrap("stdout", path, err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return sinks{}, wrap("stdout", path, err)
	}
	// Both streams share the file, so neither's end closes it.
	s := sinks{stdout: writer{file}, closers: []io.Closer{file}}
	if !terminal {
		s.stderr = writer{file}
	}
	return s, nil
}

// writer hides Close.
type writer struct{ io.Writer }

func openProgram(ctx context.Context, id string, uri *url.URL, terminal bool) (sinks, error) {
	if _, err := namespaces.NamespaceRequired(ctx); err != nil {
		return sinks{}, err
	}
	program, err := process.NewBinaryIO(ctx, id, uri)
	if err != nil {
		return sinks{}, fmt.Errorf("starting the logging program %s: %w", uri.Path, err)
	}
	var ends exec.Cmd
	program.Set(&ends)
	s := sinks{stdout: writer{ends.Stdout}, closers: []io.Closer{program}}
	if !terminal {
		s.stderr = writer{ends.Stderr}
	}
	return s, nil
}
