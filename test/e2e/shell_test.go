package e2e

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A shell is one exec of a container that runs scripts one after the other, with busybox and
// the probe in the container's memory. An exec for each takes a second where the host is
// emulated, and so does a program that virtiofs is to bring again for each call.
type shell struct {
	task *task

	mu      sync.Mutex // held while a script runs
	process client.Process
	exit    <-chan client.ExitStatus
	stdin   *io.PipeWriter
	printed chan string
}

// shellMark is the line after what a script printed, with its exit code.
const shellMark = "msb-shell-exit-code"

var markLine = regexp.MustCompile(`\n` + shellMark + ` ([0-9]+)\n$`)

// serveScripts runs each line of its input, in which escapes stand for some bytes, as a script.
const serveScripts = `programs=/run/msb-programs
if mkdir $programs && cp /bin/busybox $programs/ && /bin/busybox --install -s $programs; then PATH=$programs:$PATH; fi
if [ -e /probe/probe ]; then cp /probe/probe $programs/; fi
while IFS= read -r script; do
	sh -c "$(printf %b "$script")" </dev/null 2>&1
	printf '\n` + shellMark + ` %d\n' $?
done`

// keepShell makes exec, and what uses it, run all further scripts of the task in one shell,
// which begins with the first one and which the test's end ends.
func (k *task) keepShell() { k.shell = &shell{task: k} }

// begin begins the shell.
func (s *shell) begin(t *testing.T) {
	t.Helper()
	in, stdin := io.Pipe()
	s.stdin, s.printed = stdin, make(chan string)
	s.process, s.exit = s.task.on(t).startExec(cio.NewCreator(cio.WithStreams(in, writes(s.printed), io.Discard)), nil, "sh", "-c", serveScripts)
	s.task.t.Cleanup(s.end)
}

// end ends the shell, and what its scripts left running in it.
func (s *shell) end() {
	go func() { // what they still print
		for range s.printed {
		}
	}()
	_ = s.stdin.Close()
	ctx, cancel := host.Context()
	defer cancel()
	if _, err := s.process.Delete(ctx, client.WithProcessKill); err != nil { // its container is gone
		s.process.IO().Cancel()
		s.process.IO().Wait()
		_ = s.process.IO().Close()
	}
	close(s.printed)
}

// run runs a script and returns what it printed, on both streams, and its exit code.
func (s *shell) run(t *testing.T, script string) (output string, code uint32) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.begin(t)
	}
	go func() { _, _ = io.WriteString(s.stdin, escape(script)+"\n") }()
	limit := time.After(harness.Patience)
	for {
		select {
		case part := <-s.printed:
			output += part
		case status := <-s.exit:
			t.Fatalf("%s: the shell ended: %d, %v: %s", script, status.ExitCode(), status.Error(), output)
		case <-limit:
			t.Fatalf("%s: no end: %s", script, output)
		}
		if mark := markLine.FindStringSubmatchIndex(output); mark != nil {
			code, err := strconv.ParseUint(output[mark[2]:mark[3]], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			return output[:mark[0]], uint32(code)
		}
	}
}

// escape makes one line of a script, which printf's %b makes the script again.
func escape(script string) string {
	var line strings.Builder
	for _, c := range []byte(script) {
		if c < ' ' || c > '~' || c == '\\' {
			fmt.Fprintf(&line, `\0%03o`, c)
		} else {
			line.WriteByte(c)
		}
	}
	return line.String()
}

// writes are what is written.
type writes chan<- string

// Write implements io.Writer.
func (w writes) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
