package spare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reserved has a process reserve a place, whose directory is returned.
func reserved(t *testing.T, root string) (*process, string) {
	t.Helper()
	p := newProcess(t, root)
	p.begin(large)
	return p, p.said()
}

func put(t *testing.T, dir, name string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// find is the spare of a directory.
func find(t *testing.T, root, dir string) Listed {
	t.Helper()
	all, err := List(root)
	i := slices.IndexFunc(all, func(l Listed) bool { return l.Dir == dir })
	if err != nil || i < 0 {
		t.Fatalf("%s is not among %+v, %v", dir, all, err)
	}
	return all[i]
}

func TestListStates(t *testing.T) {
	root := filepath.Join(t.TempDir(), "spares")
	if all, err := List(root); err != nil || len(all) != 0 {
		t.Errorf("no directory: %+v, %v", all, err)
	}
	p, dir := reserved(t, root)
	is := func(state State) {
		t.Helper()
		want := Listed{Dir: dir, Size: large, Pid: p.cmd.Process.Pid, State: state, Address: address}
		if state == Dead {
			want.Address = ""
		}
		if got := find(t, root, dir); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	is(Booting)
	put(t, dir, socketFile)
	is(Waiting)
	remove(t, dir, waitingFile)
	is(Ending)
	p.end()
	is(Dead)
	// What is no spare, or is a daemon by now. The dead one is taken away.
	put(t, filepath.Join(root, "key", "1x1-0x"), lockFile)
	put(t, filepath.Join(root, "key", "note"), lockFile)
	put(t, root, "file")
	daemon := newProcess(t, root, "-namespace", "default", "-id", "x", "-address", address)
	daemon.begin(large)
	daemon.said()
	if all, err := List(root); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Dir(root), filepath.Base(root))
	if _, err := List(root); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
}

func TestEnd(t *testing.T) {
	root := t.TempDir()
	p, dir := reserved(t, root)
	put(t, dir, socketFile)
	waits := find(t, root, dir)
	if err := waits.End(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.cmd.Wait(); err == nil || p.cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGTERM {
		t.Errorf("it has ended by %v", p.cmd.ProcessState)
	}
	if err := waits.End(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := Sweep(root); err != nil {
		t.Error(err)
	}
	if all, err := List(root); err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// lives wants a process not to have ended. A signal would have ended it by then.
func lives(t *testing.T, what string, p *process) {
	t.Helper()
	p.input.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s has ended by %v", what, err)
	}
}

// Nothing is signalled but a spare that is no daemon.
func TestEndOfOthers(t *testing.T) {
	root := t.TempDir()
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	used, dir := reserved(t, root)
	put(t, dir, socketFile)
	l := find(t, root, dir)
	remove(t, dir, waitingFile) // a start is accepted
	if err := l.End(t.Context()); !errors.Is(err, ErrUsed) {
		t.Errorf("one that is used: %v", err)
	}
	if l = find(t, root, dir); l.State != Ending {
		t.Errorf("%+v", l)
	}
	if err := l.End(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that ends, and does not: %v", err)
	}
	lives(t, "one that is used", used)

	// A process has the number of a dead spare: one of any kind, and another spare. The lock is
	// free, or this process holds it.
	other, dir := reserved(t, root)
	for _, held := range []bool{false, true} {
		reused := filepath.Join(root, fmt.Sprint("key", held), filepath.Base(dir))
		place, err := newPlace(reused)
		if err != nil {
			t.Fatal(err)
		}
		if !held {
			place.lock.Close()
		}
		l := Listed{Dir: reused, Size: large, Pid: other.cmd.Process.Pid, State: Waiting}
		if err := l.End(t.Context()); err != nil || !place.waits() {
			t.Errorf("a number that is used again: %v, it waits: %t", err, place.waits())
		}
		if held {
			place.lock.Close()
		}
	}
	lives(t, "another spare", other)
}

// One that becomes a daemon while it is waited for is not waited for any longer.
func TestEndOfDaemon(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^$")
	cmd.Env = append(os.Environ(), rootEnv+"="+t.TempDir())
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { input.Close(); _ = cmd.Wait() }()
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := (Listed{Pid: cmd.Process.Pid}).await(t.Context(), fd); !errors.Is(err, ErrUsed) {
		t.Error(err)
	}
}

// Once it is to end, it accepts no start.
func TestClaimed(t *testing.T) {
	w, starts := listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	if err := claim(w.place.dir); err != nil {
		t.Fatal(err)
	}
	go w.accept(starts)
	conn := dial(t, w.socket())
	defer conn.Close()
	if err := newStart(t, "late").send(conn); err != nil {
		t.Fatal(err)
	}
	if said := answerTo(t, conn); said != "this spare ends" {
		t.Errorf("the answer is %q", said)
	}
	if start := w.giveUp(starts); start != nil {
		t.Errorf("%+v arrives", start)
	}
}
