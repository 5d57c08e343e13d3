package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// localShell is a shell of this host, instead of a container's.
func localShell(t *testing.T, environ ...string) *shell {
	t.Helper()
	done := make(chan struct{})
	cmd := exec.Command("/bin/sh")
	cmd.Env = append(os.Environ(), environ...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(done)
		in.Close()
		_ = cmd.Wait()
	})
	return newShell(in, out, done)
}

// Each job does what its name says, in every place and again in the next round, and the last one
// leaves nothing.
func TestJobs(t *testing.T) {
	s := localShell(t)
	places := []placeDir{{InRoot, t.TempDir()}, {InMount, t.TempDir()}}
	const count = 203 // a directory that is not full
	jobs, leftOut, err := possible(t.Context(), s, jobsOf(count))
	if err != nil || len(leftOut) > 0 {
		t.Fatalf("%v, %v", leftOut, err)
	}
	for round := range 2 {
		rows := rowsOf(jobs, 1)
		err := turn(t.Context(), s, jobs, places, count, func(row int, took time.Duration) {
			if took <= 0 || rows[row].Times[0] != nil {
				t.Errorf("round %d: %s in %s: %v, and again %v", round, rows[row].Job, rows[row].Place, rows[row].Times, took)
			}
			rows[row].Times[0] = append(rows[row].Times[0], took)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if len(row.Times[0]) != 1 {
				t.Errorf("round %d: %s in %s was not measured", round, row.Job, row.Place)
			}
		}
	}
	for _, p := range places {
		if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
			t.Errorf("%v is left in the %s, %v", left, p.place, err)
		}
	}
	making := jobs[0]
	if _, err := making.measure(t.Context(), s, places[0].dir, count); err != nil {
		t.Fatal(err)
	}
	if made, err := exec.Command("find", places[0].dir, "-type", "f", "-size", "2049c").Output(); err != nil || strings.Count(string(made), "\n") != count {
		t.Errorf("%d files were made, %v", strings.Count(string(made), "\n"), err)
	}
	if err := turn(t.Context(), s, jobs, []placeDir{{InRoot, "/proc/none"}}, count, func(int, time.Duration) {}); err == nil || !strings.Contains(err.Error(), making.name+" in the root file system: exit code") {
		t.Errorf("where nothing can be made: %v", err)
	}
}

// What an image has no programs for is left out and told.
func TestLeftOut(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"mkdir", "rm", "dd"} {
		if err := os.WriteFile(dir+"/"+program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	jobs, leftOut, err := possible(t.Context(), localShell(t, "PATH="+dir), jobsOf(5))
	var names []string
	for _, j := range jobs {
		names = append(names, j.name)
	}
	if want := []string{"making 5 files of 2 KiB", "deleting them", "writing 64 MiB, and fsync", "reading 64 MiB back"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v", names, err)
	}
	if want := []string{"finding them by their size: the image has no find", "reading them: the image has no cat", "tar x of them: the image has no tar"}; !slices.Equal(leftOut, want) {
		t.Errorf("%q", leftOut)
	}
}

// Only where no way finds a shell is that the image's; all else is an error.
func TestJudge(t *testing.T) {
	broken := errors.New("broken")
	lacking := fmt.Errorf("runc create failed: %w: unknown", &exec.Error{Name: "sh", Err: exec.ErrNotFound})
	for _, c := range []struct {
		failed []error
		ways   int
		want   string
	}{
		{nil, 2, "<nil>"},
		{[]error{broken}, 2, "broken"},
		{[]error{lacking}, 2, lacking.Error()},
		{[]error{lacking, lacking}, 2, "the image has no shell (" + lacking.Error() + ")"},
		{[]error{lacking}, 1, "the image has no shell (" + lacking.Error() + ")"},
		{[]error{broken}, 1, "broken"},
		{[]error{lacking, broken}, 2, lacking.Error() + "\nbroken"},
	} {
		if err := judge(c.failed, c.ways); fmt.Sprint(err) != c.want {
			t.Errorf("%v of %d: %v, want %s", c.failed, c.ways, err, c.want)
		}
	}
}

// A shell that says what it should not, says nothing, or ends holds nobody up and fills nothing.
func TestShell(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
	}{
		"nothing":      {":", "<nil>"},
		"output":       {"echo hello", "<nil>"},
		"it reads":     {"cat", "<nil>"},
		"it fails":     {"echo hello; echo first >&2; echo last >&2; (exit 3)", `exit code "3": "last"`},
		"a long line":  {fmt.Sprintf("printf %%0%dd 0 >&2; false", 3*lineLimit), fmt.Sprintf("exit code \"1\": %q", strings.Repeat("0", lineLimit))},
		"an escape":    {`printf '\033]0;mine\007\n' >&2; false`, `exit code "1": "\x1b]0;mine\a"`},
		"a false code": {"echo msbctl-bench: never >&2", `exit code "never": ""`},
		"it ends":      {"exit 3", errShellEnded.Error()},
		"it ends, and says why": {
			"echo farewell >&2; exit 3", errShellEnded.Error() + `: "farewell"`,
		},
	} {
		if err := localShell(t).do(t.Context(), c.script); fmt.Sprint(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	for name, script := range map[string]string{"silent": "exec sleep 1000", "endless": "while :; do echo more >&2; done", "one line": "while :; do printf more >&2; done"} {
		ctx, cancel := context.WithCancel(t.Context())
		in, scripts := io.Pipe()
		answers, out := io.Pipe()
		said := make(chan struct{})
		var much sync.Once
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
		cmd.Stderr, cmd.WaitDelay = &counter{out, 1 << 20, func() { much.Do(func() { close(said) }) }}, time.Millisecond
		if name == "silent" {
			close(said)
		}
		go func() { _, _ = io.Copy(io.Discard, in); out.Close() }()
		done := make(chan struct{})
		s := newShell(scripts, answers, done)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { <-said; cancel() }()
		if err := s.do(ctx, ":"); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		close(done)
		_ = cmd.Wait()
		scripts.Close()
		for range s.lines { // until it is closed: the reader has ended
			continue
		}
	}
}

// A counter passes what is written, and calls full when it has passed as many bytes as are left.
type counter struct {
	io.Writer
	left int
	full func()
}

func (c *counter) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left <= 0 {
		c.full()
	}
	return c.Writer.Write(b)
}
