package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
)

// buildPlaceholder builds msb-placeholder, which is no program of Go's.
func buildPlaceholder(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "msb-placeholder")
	if printed, err := exec.Command("../../hack/build-placeholder", program).CombinedOutput(); err != nil || len(printed) > 0 {
		t.Fatalf("%v\n%s", err, printed)
	}
	return program
}

// The placeholder enters its jail, with the filter that others have, too. It has one thread and
// little memory, for there is one for each container.
func TestPlaceholder(t *testing.T) {
	s := spec(t, "", io.Discard)
	s.Program, s.Args = buildPlaceholder(t), nil
	p, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	// It is in its jail when Start returns, and has its filter soon.
	text := awaitFiltered(t, p)
	for _, want := range []string{"Threads:\t1\n", "CapBnd:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	var resident int
	_, memory, _ := strings.Cut(text, "VmRSS:")
	if _, err := fmt.Sscan(memory, &resident); err != nil || resident > 256 {
		t.Errorf("it has %d kB of memory, %v; want at most 256", resident, err)
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", p.Pid())); len(entries) != 1 || err != nil {
		t.Errorf("its root has %v, %v; want proc alone", entries, err)
	}
	p.Kill()
	ended(t, p)
}

// A program that was opened is what runs, whatever is at its path by then, and it has the program's name.
func TestOpenedProgram(t *testing.T) {
	path := buildPlaceholder(t)
	program := OpenProgram(path)
	defer program.Close()
	for _, c := range []struct {
		name   string
		before func() error
	}{
		{"as it is", func() error { return nil }},
		{"another", func() error { return replaceFile(path, "#!/bin/false\n") }},
		{"none", func() error { return os.Remove(path) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.before(); err != nil {
				t.Fatal(err)
			}
			s := spec(t, "", io.Discard)
			s.Program, s.Args, s.Opened = program.Path, nil, program.File
			p, err := Start(s)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			comm, commErr := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.Pid()))
			line, lineErr := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid()))
			if string(comm) != "msb-placeholder\n" || string(line) != path+"\x00" || commErr != nil || lineErr != nil {
				t.Errorf("it is called %q and %q, %v, %v", comm, line, commErr, lineErr)
			}
			awaitFiltered(t, p) // it has let go of the keeper
			if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid())); len(fds) > FirstFile || err != nil {
				t.Errorf("it has %d descriptors, %v", len(fds), err)
			}
			p.Kill()
			ended(t, p)
		})
	}
	if missing := OpenProgram(path + ".none"); missing.File != nil || missing.Path != path+".none" || missing.Close() != nil {
		t.Errorf("a program that is not there: %v", missing)
	}
}

// replaceFile puts a program in the place of another, as package managers do.
func replaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o755); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// filtersHere is how many filters of system calls this process has itself.
func filtersHere(t *testing.T) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "Seccomp_filters:")
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("its filters: %v", err)
	}
	return n
}

// awaitFiltered waits until a process has the filter of its own besides that which it is born with, and
// returns its status (proc_pid_status(5)).
func awaitFiltered(t *testing.T, p *Process) string {
	t.Helper()
	want := fmt.Sprintf("Seccomp:\t2\nSeccomp_filters:\t%d\n", 2+filtersHere(t))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
		if err == nil && strings.Contains(string(status), want) {
			return string(status)
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in its status, %v:\n%s", want, err, status)
		}
	}
}

// A signal by which one asks a program to end ends the placeholder, though it is the first process
// of its pid namespace, and no other does but SIGKILL.
func TestPlaceholderSignals(t *testing.T) {
	program := buildPlaceholder(t)
	for signal, ends := range map[syscall.Signal]bool{
		unix.SIGTERM: true, unix.SIGINT: true, unix.SIGHUP: true, unix.SIGQUIT: true, unix.SIGKILL: true,
		unix.SIGUSR1: false, unix.SIGPIPE: false, unix.SIGALRM: false, unix.SIGCHLD: false, unix.SIGWINCH: false,
	} {
		s := spec(t, "", io.Discard)
		s.Program, s.Args = program, nil
		p, err := Start(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(p.Pid(), signal); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
		if !ends {
			// What follows is taken after it: of those that wait, the lowest number is first,
			// and these are all that it waits for.
			_ = unix.Kill(p.Pid(), unix.SIGTERM)
		}
		ended(t, p)
		want := 128 + int(signal)
		switch {
		case signal == unix.SIGKILL:
			want = -1
		case !ends:
			want = 128 + int(unix.SIGTERM)
		}
		if got := p.State().ExitCode(); got != want {
			t.Errorf("%v: exit code %d, want %d", signal, got, want)
		}
	}
}

// A placeholder that is not told that it is in its jail, or whose filter the kernel does not take,
// ends and says so.
func TestPlaceholderNotInJail(t *testing.T) {
	program := buildPlaceholder(t)
	whole, err := filters[ordinary]()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := entry.Answer(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		environment string
		answer      []byte
		want        string
	}{
		"no answer":               {entry.Control + "=3", nil, "the shim did not say that this is the jail"},
		"half a number":           {entry.Control + "=3", answer[:1], "the shim did not say that this is the jail"},
		"half a filter":           {entry.Control + "=3", answer[:len(answer)-1], "the shim did not say that this is the jail"},
		"too long a filter":       {entry.Control + "=3", []byte{0xff, 0xff}, "the system call filter is too long"},
		"no filter at all":        {entry.Control + "=3", append([]byte{1, 0}, make([]byte, 8)...), "the kernel refused the system call filter"},
		"no variable":             {"", nil, "it is not run by hand"},
		"another variable":        {entry.Control + "X=3", nil, "it is not run by hand"},
		"no number":               {entry.Control + "=", nil, "it is not run by hand"},
		"another thing":           {entry.Control + "=3a", nil, "it is not run by hand"},
		"too large a number":      {entry.Control + "=18446744073709551619", nil, "it is not run by hand"},
		"no descriptor":           {entry.Control + "=1000", nil, "talking to the shim failed"},
		"another, then the right": {"MSB=1 " + entry.Control + "=3", nil, "the shim did not say that this is the jail"},
	} {
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		var printed bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, program)
		cmd.Env, cmd.Stderr, cmd.ExtraFiles = strings.Fields(c.environment), &printed, []*os.File{theirs}
		if _, err := ours.Write(c.answer); err != nil {
			t.Fatal(err)
		}
		if err := unix.Shutdown(int(ours.Fd()), unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		err = cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(printed.String(), c.want) {
			t.Errorf("%s: %v, printed %q; want %q", name, err, printed.String(), c.want)
		}
		cancel()
		ours.Close()
		theirs.Close()
	}
}

// A program that is closed while it is executed stays open until it is, and is executed no more after
// that: its number may be another file's.
func TestProgramClosed(t *testing.T) {
	program := OpenProgram("/bin/true")
	started := make(chan struct{})
	closed := make(chan error, 1)
	err := program.execute(func(path string) error {
		go func() {
			close(started)
			closed <- program.Close()
		}()
		<-started
		time.Sleep(10 * time.Millisecond) // for a Close that does not wait
		return exec.Command(path).Run()
	})
	if err := errors.Join(err, <-closed); err != nil {
		t.Error(err)
	}
	err = program.execute(func(path string) error {
		t.Errorf("%s is executed", path)
		return nil
	})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after it was closed: %v", err)
	}
}
