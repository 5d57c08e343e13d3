package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

func TestStdio(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{}, sleeper...)

	t.Run("stdout and stderr are apart", func(t *testing.T) {
		var out, errOut harness.Buffer
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(nil, &out, &errOut)), nil, "sh", "-c", "echo out; echo err >&2; exit 3")
		if code := await(t, exit); code != 3 {
			t.Errorf("exit code %d", code)
		}
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		if out.String() != "out\n" || errOut.String() != "err\n" {
			t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
		}
	})
	t.Run("stdin to its end", func(t *testing.T) {
		// More than all buffers on the way together.
		const size = 24 << 20
		input := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
		var out harness.Buffer
		reader, writer := io.Pipe()
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(reader, &out, io.Discard)), nil, "sha256sum")
		if _, err := writer.Write(input); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		if err := process.CloseIO(c.ctx, client.WithStdinCloser); err != nil {
			t.Fatal(err)
		}
		if code := await(t, exit); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		if want := fmt.Sprintf("%x", sha256.Sum256(input)); !strings.HasPrefix(out.String(), want) {
			t.Errorf("the guest read something else: %s", out.String())
		}
	})
	t.Run("stdin stays open until it is closed", func(t *testing.T) {
		var out harness.Buffer
		reader, writer := io.Pipe()
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(reader, &out, io.Discard)), nil, "cat")
		for _, word := range []string{"one", "two", "three"} {
			fmt.Fprintln(writer, word)
			waitFor(t, word, func() bool { return strings.Contains(out.String(), word) })
		}
		writer.Close()
		_ = process.CloseIO(c.ctx, client.WithStdinCloser)
		await(t, exit)
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		var out harness.Buffer
		reader, writer := io.Pipe()
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(reader, &out, nil), cio.WithTerminal), func(p *specs.Process) {
			p.Terminal = true
		}, "sh", "-c", "stty -echo; echo quiet; read line; stty size; tty; exit 5")
		if err := process.Resize(c.ctx, 123, 45); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the terminal's echo to be off", func() bool { return strings.Contains(out.String(), "quiet") })
		fmt.Fprintln(writer, "go")
		if code := await(t, exit); code != 5 {
			t.Errorf("exit code %d", code)
		}
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		writer.Close()
		if got := out.String(); !strings.Contains(got, "45 123") || !strings.Contains(got, "/dev/") {
			t.Errorf("the terminal printed %q", got)
		}
	})
	t.Run("a client that does not read does not hold up the others", func(t *testing.T) {
		reader, writer := io.Pipe()
		process, exit := c.startExec(cio.NewCreator(cio.WithStreams(nil, writer, io.Discard)), nil, "sh", "-c", "dd if=/dev/zero bs=64k count=256 2>/dev/null; exit 9")
		if got := c.must("echo still here"); got != "still here" {
			t.Errorf("%q", got)
		}
		go func() { _, _ = io.Copy(io.Discard, reader) }()
		if code := await(t, exit); code != 9 {
			t.Errorf("exit code %d", code)
		}
		if _, err := process.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		writer.Close()
	})
}

// Everything a container writes arrives, also when it exits at once after it.
func TestOutputIsComplete(t *testing.T) {
	nothingLeft(t)
	sizes := []int{8, harness.Many(30, 100)}
	for _, size := range sizes[:harness.FewEmulated(1, len(sizes))] {
		t.Run(fmt.Sprintf("%d MiB, then exit", size), func(t *testing.T) {
			var out counter
			c := start(t, options{io: cio.NewCreator(cio.WithStreams(nil, &out, io.Discard))},
				"sh", "-c", fmt.Sprintf("dd if=/dev/urandom of=/tmp/x bs=1M count=1 2>/dev/null; i=0; while [ $i -lt %d ]; do cat /tmp/x; i=$((i+1)); done; exit 4", size))
			if code := await(t, c.exit); code != 4 {
				t.Errorf("exit code %d", code)
			}
			c.IO().Wait() // Delete closes this client's ends, with what it has not read
			if _, err := c.Delete(c.ctx); err != nil {
				t.Error(err)
			}
			if want := int64(size) << 20; out.n != want {
				t.Errorf("%d bytes arrived, want %d", out.n, want)
			}
		})
	}
	t.Run("to a file", func(t *testing.T) {
		file := t.TempDir() + "/log/out"
		c := start(t, options{io: cio.LogFile(file)}, "sh", "-c", "echo out; echo err >&2")
		await(t, c.exit)
		if _, err := c.Delete(c.ctx); err != nil {
			t.Error(err)
		}
		// They are two streams, and either may come first.
		content, err := os.ReadFile(file)
		if text := string(content); err != nil || text != "out\nerr\n" && text != "err\nout\n" {
			t.Errorf("the file has %q, %v", text, err)
		}
	})
}

// A logging program of the client's gets the output, complete, and ends with the
// container.
func TestLoggingProgram(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	program, log := filepath.Join(dir, "logger"), filepath.Join(dir, "log")
	// containerd's protocol: 3 is stdout, 4 is stderr, closing 5 says "ready".
	script := fmt.Sprintf("#!/bin/sh\ntrap '' TERM\nexec 5>&-\ncat <&3 >%s.out &\ncat <&4 >%s.err &\nwait\n", log, log)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := start(t, options{io: cio.BinaryIO(program, nil)}, "sh", "-c", "echo out; echo err >&2; dd if=/dev/zero bs=64k count=32 2>/dev/null")
	await(t, c.exit)
	if _, err := c.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	wantContent(t, log+".err", "err\n")
	if info, err := os.Stat(log + ".out"); err != nil || info.Size() != 4+32*64<<10 {
		t.Errorf("the program got %v, %v", info, err)
	}
}

// A task that was never started is deleted as any other.
func TestNeverStarted(t *testing.T) {
	nothingLeft(t)
	events := record(t)
	c := create(t, options{}, "true")
	if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
		t.Fatal(err)
	}
	if topics, _ := events.until(t, c.ID(), "/tasks/delete"); topics[0] != "/tasks/create" {
		t.Errorf("events %v", topics)
	}
}

// The container's own terminal, not an exec's.
func TestTerminal(t *testing.T) {
	nothingLeft(t)
	var out harness.Buffer
	c := start(t, options{
		spec: []oci.SpecOpts{oci.WithTTY},
		io:   cio.NewCreator(cio.WithStreams(nil, &out, nil), cio.WithTerminal),
	}, "sh", "-c", "tty; exit 6")
	if code := await(t, c.exit); code != 6 {
		t.Errorf("exit code %d", code)
	}
	if _, err := c.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "/dev/") {
		t.Errorf("tty printed %q", out.String())
	}
}

// counter counts bytes.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	if !harness.Eventually(holds) {
		t.Fatalf("waited in vain for %s", what)
	}
}
