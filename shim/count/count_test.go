package count

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Every phase that the shim has is counted, and no other is.
func TestPhases(t *testing.T) {
	call := regexp.MustCompile(`trace\.(?:Begin|Since)\([^"\n]*"([^"]+)"`)
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(filepath.Dir(file)) == "trace" {
			continue // its tests and examples
		}
		for _, match := range call.FindAllSubmatch(source, -1) {
			found[string(match[1])] = true
		}
	}
	for name := range found {
		if !slices.Contains(phases[:], name) {
			t.Errorf("the phase %q is not counted", name)
		}
	}
	for _, name := range phases {
		if !found[name] {
			t.Errorf("%q is no phase", name)
		}
	}
}

// A layout has its own version. Who changes it gives it another, in fileName and magic, and then
// writes down here what this test prints.
func TestLayout(t *testing.T) {
	layout := fnv.New64a()
	fmt.Fprint(layout, phases, drivers, bounds, vms, outcomes, processes, results, classes, size)
	for _, field := range append(reflect.VisibleFields(reflect.TypeFor[page]()), reflect.VisibleFields(reflect.TypeFor[histogram]())...) {
		fmt.Fprint(layout, field.Name, field.Offset)
	}
	const version, want = "counts-1", uint64(0x3ed2ba4211a585b5)
	if fileName != version || magic != "msb"+"cnt"+version[len("counts"):] || layout.Sum64() != want {
		t.Errorf("%s, %s: the layout is %#x", fileName, magic, layout.Sum64())
	}
	if VM(len(vms)) != Joined || Result(len(results)-1) != Lost {
		t.Error("there are more kinds than names")
	}
}

// opened has this process count in a file of the test's own.
func opened(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "run")
	if err := Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mapped.Store(nil); driver.Store(0); early = waiting{} })
	return dir
}

func read(t testing.TB, dir string) Counts {
	t.Helper()
	counts, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// all are the counters that are not 0, but phases.
func (c Counts) all() map[string]uint64 {
	found := map[string]uint64{"overruns": c.Overruns, "violations": c.Violations}
	for name, counters := range map[string][]Counter{"starts": c.Starts, "refusals": c.Refusals, "exits": c.Exits, "streams": c.Streams} {
		for _, counter := range counters {
			found[fmt.Sprint(name, counter.Labels)] += counter.Count
		}
	}
	for name, n := range found {
		if n == 0 {
			delete(found, name)
		}
	}
	return found
}

func TestCounters(t *testing.T) {
	dir := opened(t)
	for _, test := range []struct {
		count func()
		want  string
	}{
		{AddOverrun, "overruns"},
		{AddViolation, "violations"},
		{func() { AddExit(false, Success) }, "exits[container success]"},
		{func() { AddExit(true, Lost) }, "exits[exec lost]"},
		{func() { AddStart(Cold, false) }, "starts[none cold failure]"},
		{func() { SetDriver("qemu"); AddStart(Joined, true) }, "starts[qemu joined success]"},
		{func() { SetDriver("a driver\n"); AddStart(Missed, true) }, "starts[none missed success]"},
		{func() { AddStart(NoVM, true) }, ""},
		{func() { AddRefusal(fmt.Errorf("x: %w", errdefs.ErrInvalidArgument)) }, "refusals[invalid argument]"},
		{func() { AddRefusal(errdefs.ErrAlreadyExists) }, "refusals[already exists]"},
		{func() { AddRefusal(errdefs.ErrPermissionDenied) }, "refusals[permission denied]"},
		{func() { AddRefusal(errdefs.ErrFailedPrecondition) }, "refusals[failed precondition]"},
		{func() { AddRefusal(errdefs.ErrNotImplemented) }, "refusals[not implemented]"},
		{func() { AddRefusal(errdefs.ErrUnavailable) }, "refusals[unavailable]"},
		{func() { AddRefusal(context.DeadlineExceeded) }, "refusals[context deadline exceeded]"},
		{func() { AddRefusal(fmt.Errorf("x: %w", context.Canceled)) }, "refusals[context canceled]"},
		{func() { AddRefusal(errdefs.ErrDataLoss) }, "refusals[other]"},
		{func() { AddRefusal(errors.New("a\"b\n")) }, "refusals[other]"},
		{func() { AddStreamRefused(errdefs.ErrNotFound) }, "streams[not found]"},
		{func() { AddStreamRefused(errdefs.ErrResourceExhausted) }, "streams[resource exhausted]"},
	} {
		before := read(t, dir).all()
		test.count()
		for name, n := range read(t, dir).all() {
			if more := n - before[name]; more > 1 || (more == 1) != (name == test.want) {
				t.Errorf("%d more of %s, want one of %s", more, name, test.want)
			}
			if name == test.want {
				test.want = ""
			}
		}
		if test.want != "" {
			t.Errorf("no %s", test.want)
		}
	}
}

// A duration is in the first bucket whose bound it does not exceed, and in those above.
func TestHistogram(t *testing.T) {
	dir := opened(t)
	var sum time.Duration
	for _, took := range []time.Duration{-time.Second, 0, time.Millisecond, time.Millisecond + 1, time.Second, time.Minute, time.Minute + 1, time.Hour} {
		AddPhase("guest boot", took)
		sum += max(took, 0)
	}
	AddPhase("none of ours", time.Second)
	SetDriver("krun")
	AddPhase("start", time.Second)
	got := read(t, dir).Phases
	if len(got) != 2 || got[0].Name != "guest boot" || got[0].Driver != "krun" || got[1].Name != "start" || got[1].Driver != "krun" {
		t.Fatalf("the phases are %+v", got)
	}
	if p := got[0]; p.Count != 8 || p.Sum != sum || len(p.Buckets) != len(bounds) {
		t.Errorf("%+v, want a sum of %v", p, sum)
	}
	for bound, want := range map[float64]uint64{0.001: 3, 0.005: 4, 0.5: 4, 1: 5, 15: 5, 60: 6} {
		if n, found := got[0].Buckets[bound]; !found || n != want {
			t.Errorf("%d took no longer than %v s, want %d", n, bound, want)
		}
	}
}

// A phase that ends before there is a driver is counted with the driver that comes, with none when
// the start ends without one, and in any case when there are many.
func TestPhasesBeforeTheDriver(t *testing.T) {
	dir := opened(t)
	wait := func(n int) {
		for range n {
			AddPhase("share", time.Second)
		}
	}
	expect := func(driver string, want ...uint64) {
		t.Helper()
		var got []uint64
		for _, p := range read(t, dir).Phases {
			got = append(got, p.Count)
			driver = strings.TrimPrefix(driver, p.Driver)
		}
		if !slices.Equal(got, want) || driver != "" {
			t.Errorf("counted %v, want %v; without %q", got, want, driver)
		}
	}
	wait(3)
	expect("")
	AddRefusal(errdefs.ErrNotFound)
	expect("none", 3)
	wait(4)
	AddStart(Cold, false)
	expect("none", 7)
	wait(len(early.ended) + 5)
	expect("none", 12)
	SetDriver("qemu")
	expect("noneqemu", 12, uint64(len(early.ended)))
	wait(1)
	expect("noneqemu", 12, uint64(len(early.ended))+1)
}

// Counting costs no memory, whether there is a file or not.
func TestNothingIsAllocated(t *testing.T) {
	failure := fmt.Errorf("x: %w", errdefs.ErrInvalidArgument)
	for name, begin := range map[string]func(){"without a file": func() { mapped.Store(nil) }, "with a file": func() { opened(t) }} {
		begin()
		if n := testing.AllocsPerRun(1000, func() {
			AddPhase("leave", time.Second)
			AddStart(Spare, true)
			AddRefusal(failure)
			AddExit(true, Failure)
			AddStreamRefused(failure)
			AddOverrun()
			AddViolation()
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Before it is opened, and after an error, counting goes nowhere, and harms nobody.
func TestWithoutFile(t *testing.T) {
	dir := t.TempDir()
	if got := read(t, dir); len(got.all()) != 0 || len(got.Phases) != 0 || len(got.Starts) == 0 {
		t.Errorf("without a file: %+v", got)
	}
	if err := Open("/proc/1/no"); err == nil {
		t.Error("a directory that cannot be made")
	}
	if err := Open("/proc/self"); err == nil { // without O_TMPFILE
		t.Error("a file system without nameless files")
	}
	AddOverrun()
	AddPhase("leave", time.Second)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("to read made %v, %v", left, err)
	}
}

// What is not a file as shims make it is neither mapped nor touched, and nothing waits for it.
func TestNotAFileOfShims(t *testing.T) {
	whole := func(t *testing.T, dir string) string {
		if err := create(dir); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, fileName)
	}
	for name, spoil := range map[string]func(t *testing.T, dir string) error{
		"short":       func(t *testing.T, dir string) error { return os.Truncate(whole(t, dir), size-8) },
		"empty":       func(t *testing.T, dir string) error { return os.Truncate(whole(t, dir), 0) },
		"long":        func(t *testing.T, dir string) error { return os.Truncate(whole(t, dir), size+8) },
		"readable":    func(t *testing.T, dir string) error { return os.Chmod(whole(t, dir), 0o604) },
		"group's":     func(t *testing.T, dir string) error { return os.Chmod(whole(t, dir), 0o620) },
		"other magic": func(t *testing.T, dir string) error { return write(whole(t, dir), "msbcnt-0") },
		"directory":   func(_ *testing.T, dir string) error { return os.Mkdir(filepath.Join(dir, fileName), 0o700) },
		"FIFO":        func(_ *testing.T, dir string) error { return unix.Mkfifo(filepath.Join(dir, fileName), 0o600) },
		"link": func(t *testing.T, dir string) error {
			return os.Symlink(whole(t, t.TempDir()), filepath.Join(dir, fileName))
		},
		"another's": func(t *testing.T, dir string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root gives files away")
			}
			return os.Chown(whole(t, dir), 1234, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := spoil(t, dir); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { mapped.Store(nil) })
			if err := Open(dir); err == nil || mapped.Load() != nil {
				t.Errorf("it is opened: %v", err)
			}
			if _, err := Read(dir); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("it is read: %v", err)
			}
			AddOverrun()
			if _, err := os.Lstat(filepath.Join(dir, fileName)); err != nil {
				t.Error(err)
			}
		})
	}
}

func write(path, begin string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(begin)
	return errors.Join(err, file.Close())
}

// A file of another layout is another's: it is left alone.
func TestOtherLayout(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "counts-0")
	if err := os.WriteFile(other, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Open(dir); err != nil {
		t.Fatal(err)
	}
	defer mapped.Store(nil)
	AddOverrun()
	if got := read(t, dir).Overruns; got != 1 {
		t.Errorf("%d overruns", got)
	}
	if data, err := os.ReadFile(other); err != nil || string(data) != "theirs" {
		t.Errorf("the other's: %q, %v", data, err)
	}
}

// A file that is made shorter under those who have mapped it ends nobody: they count for
// themselves from then on.
func TestTruncated(t *testing.T) {
	dir := opened(t)
	path := filepath.Join(dir, fileName)
	p, err := open(dir, os.O_RDONLY, unix.PROT_READ)
	if err != nil {
		t.Fatal(err)
	}
	defer p.unmap()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if survives(func() { p.counts() }) {
		t.Error("it is read")
	}
	before := own.overruns.Load()
	AddOverrun()
	AddOverrun()
	if n := own.overruns.Load() - before; n != 2 || mapped.Load() != nil {
		t.Errorf("%d were counted here", n)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("another panic is lost")
			}
		}()
		survives(func() { panic("another") })
	}()
}

// A file that is removed is made again by the next.
func TestRemoved(t *testing.T) {
	dir := opened(t)
	AddOverrun()
	if err := os.Remove(filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	AddOverrun()
	if n := read(t, dir).Overruns; n != 0 {
		t.Errorf("%d overruns without a file", n)
	}
	if err := Open(dir); err != nil {
		t.Fatal(err)
	}
	AddOverrun()
	if n := read(t, dir).Overruns; n != 1 {
		t.Errorf("%d overruns in the new file", n)
	}
}

func BenchmarkAddPhase(b *testing.B) {
	opened(b)
	for b.Loop() {
		AddPhase("leave", time.Second)
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := opened(b)
	for b.Loop() {
		p, err := open(dir, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			b.Fatal(err)
		}
		p.unmap()
	}
}
