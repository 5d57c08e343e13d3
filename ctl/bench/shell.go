package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// A shell is one that reads from in what it is to do, and is read line by line. What it runs is
// the image's, and may print what it likes: no more than a line of it is kept, of lineLimit bytes.
type shell struct {
	in    io.Writer
	lines <-chan string // closed at the end of what it prints
}

const lineLimit = 1024

// newShell reads until done is closed, and from then on without keeping anything, as whoever
// writes is not to wait.
func newShell(in io.Writer, out io.Reader, done <-chan struct{}) *shell {
	lines := make(chan string)
	go func() {
		defer close(lines)
		reader := bufio.NewReaderSize(out, lineLimit)
		rest := false // of a line that is too long
		for {
			line, more, err := reader.ReadLine()
			if err != nil {
				return
			}
			if !rest {
				select {
				case lines <- string(line):
				case <-done:
					_, _ = io.Copy(io.Discard, reader)
					return
				}
			}
			rest = more
		}
	}()
	return &shell{in, lines}
}

// answer is how the line begins that has a script's exit code.
const answer = "msbctl-bench:"

var errShellEnded = errors.New("its shell has ended")

// do runs a script. The error has the last line that it has printed as one.
func (s *shell) do(ctx context.Context, script string) error {
	// What the shell reads is its script: what it runs is to read nothing of it. The answer is
	// at the beginning of a line, wherever a program has stopped printing.
	_, err := fmt.Fprintf(s.in, "{ %s\n} </dev/null 2>&1 >/dev/null\nr=$?; echo; echo %s $r\n", script, answer)
	if err != nil {
		return errors.Join(errShellEnded, err)
	}
	last := ""
	for {
		select {
		case line, more := <-s.lines:
			code, answers := strings.CutPrefix(line, answer+" ")
			switch {
			case !more && last == "":
				return errShellEnded
			case !more:
				return fmt.Errorf("%w: %q", errShellEnded, last)
			case !answers && line != "":
				last = line
			case !answers:
			case code == "0":
				return nil
			default:
				return fmt.Errorf("exit code %q: %q", code, last)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// has tells whether there is a program.
func (s *shell) has(ctx context.Context, program string) (bool, error) {
	err := s.do(ctx, "command -v "+program)
	if ctx.Err() != nil || errors.Is(err, errShellEnded) {
		return false, err
	}
	return err == nil, nil
}

// streams are those of a task whose process is a shell.
type streams struct {
	create cio.Creator
	shell  *shell
	// close closes them and lets go of whoever writes. The first call counts.
	close func()
}

func newStreams() (streams, error) {
	read, in, err := os.Pipe() // whose buffer a script fits into, whether or not it is read
	if err != nil {
		return streams{}, err
	}
	out, write := io.Pipe()
	done := make(chan struct{})
	return streams{
		create: cio.NewCreator(cio.WithStreams(read, write, write)),
		shell:  newShell(in, out, done),
		close: sync.OnceFunc(func() {
			close(done)
			in.Close()
			read.Close()
			write.Close()
		}),
	}, nil
}

// stopWith closes the streams when the task has ended, or ctx has: who waits for an answer is told.
func (s streams) stopWith(ctx context.Context, task client.Task) error {
	ended, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	go func() {
		<-ended
		s.close()
	}()
	return nil
}
