package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// soakTime is how long TestSoak goes on; MSB_SOAK says another ("30m").
const soakTime = 30 * time.Second

// Containers with random mounts are made, used, killed in a random part or not at
// all, and deleted, two at a time: what was written is on the host, and in the end
// everything is counted.
func TestSoak(t *testing.T) {
	duration := soakTime
	if text := os.Getenv("MSB_SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("MSB_SOAK: %v", err)
		}
	}
	nothingLeft(t)
	connections := fuseConnections(t)
	life{T: t, random: rand.New(rand.NewPCG(0, 0))}.live("soak-warm-up")
	counted := func() (descriptors, fuse int) {
		t.Helper()
		if err := host.EndSpares(); err != nil { // they have some of both
			t.Error(err)
		}
		return harness.Descriptors(host.Pid()), connections()
	}
	descriptors, fuse := counted()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	end := time.Now().Add(duration)
	var lives, killed atomic.Int64
	var workers sync.WaitGroup
	for worker := range uint64(2) {
		workers.Go(func() {
			for round := uint64(0); time.Now().Before(end); round++ {
				name := fmt.Sprintf("soak-%d-%d", worker, round)
				t.Run(name, func(t *testing.T) {
					if (life{T: t, random: rand.New(rand.NewPCG(seed, worker<<32|round))}).live(name) {
						killed.Add(1)
					}
				})
				lives.Add(1)
			}
		})
	}
	workers.Wait()
	t.Logf("%d containers, %d with something of theirs killed", lives.Load(), killed.Load())
	waitFor(t, "containerd's descriptors to be closed, and the FUSE connections to end", func() bool {
		left, leftFuse := counted()
		return left <= descriptors && leftFuse <= fuse
	})
}

// fuseConnections counts the kernel's (fuse.rst, "Control filesystem").
func fuseConnections(t *testing.T) func() int {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("fusectl", dir, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		return len(entries)
	}
}

// life is one container's.
type life struct {
	*testing.T
	random *rand.Rand
}

// live makes a container, uses it, and deletes it. It tells whether something of
// it was killed.
func (l life) live(id string) bool {
	dir := l.TempDir()
	mounts, files := l.mounts(dir)
	ctx, cancel := host.Context()
	defer cancel()
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		l.Fatal(err)
	}
	container, err := host.Client.NewContainer(ctx, id, client.WithNewSnapshot(id, image),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(sleeper...), oci.WithMounts(mounts)), host.WithRuntime())
	if err != nil {
		l.Fatal(err)
	}
	attack := l.attack(id)
	written, err := l.use(container, files)
	killed := attack.end()
	if err != nil && !killed {
		l.Errorf("nothing was killed, and: %v", err)
	}
	if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
		l.Errorf("deleting the container: %v", err)
	}
	for _, line := range written {
		file, text, _ := strings.Cut(line, " ")
		if content, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(content), text+"\n") {
			l.Errorf("%q was written to %s and is not on the host: %v", text, file, err)
		}
	}
	return killed
}

// mounts are random ones of new files in dir. Those that can be written are named.
func (l life) mounts(dir string) (mounts []specs.Mount, writable []string) {
	for i := range l.random.IntN(12) {
		name := fmt.Sprintf("file%d", i)
		write(l.T, filepath.Join(dir, name), "")
		options := [][]string{{"ro"}, {"rw"}, {"rw", "x-msb.update=follow"}, {"rw", "x-msb.metadata=host"}}[l.random.IntN(4)]
		mounts = append(mounts, bind(filepath.Join(dir, name), "/mnt/"+name, options...))
		if options[0] == "rw" {
			writable = append(writable, name)
		}
	}
	for i := range l.random.IntN(3) {
		name := fmt.Sprintf("dir%d/sub", i)
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			l.Fatal(err)
		}
		mounts = append(mounts, bind(filepath.Dir(filepath.Join(dir, name)), "/mnt/"+filepath.Dir(name), "rw"))
		writable = append(writable, name+"/file")
	}
	if l.random.IntN(3) == 0 {
		listen(l.T, filepath.Join(dir, "socket"))
		mounts = append(mounts, bind(filepath.Join(dir, "socket"), "/mnt/socket"))
	}
	return mounts, writable
}

// use creates the task, lets commands write, and deletes it, as far as it lives.
// What commands wrote that succeeded is returned, a line each: the file, the text.
func (l life) use(container client.Container, files []string) (written []string, err error) {
	ctx, cancel := host.Context()
	defer cancel()
	created, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	defer func() {
		if _, failed := created.Delete(ctx, client.WithProcessKill); failed != nil {
			err = errors.Join(err, fmt.Errorf("deleting the task: %w", failed))
		}
	}()
	if l.random.IntN(8) == 0 {
		return nil, nil // created and never started
	}
	exit, err := created.Wait(ctx)
	if err != nil {
		return nil, err
	}
	if err := created.Start(ctx); err != nil {
		return nil, err
	}
	k := &task{Task: created, t: l.T, ctx: ctx, container: container, exit: exit}
	for i := range l.random.IntN(5) {
		if len(files) == 0 {
			break
		}
		file, text := files[l.random.IntN(len(files))], fmt.Sprintf("text-%d", i)
		code, err := k.tryExec(fmt.Sprintf("echo %s >>/mnt/%s && chmod 755 /mnt/%s", text, file, file))
		if err != nil {
			return written, err
		}
		if code == 0 {
			written = append(written, file+" "+text)
		}
	}
	return written, nil
}

// tryExec is exec in a container that may be dying.
func (k *task) tryExec(script string) (code uint32, err error) {
	spec, err := k.container.Spec(k.ctx)
	if err != nil {
		return 0, err
	}
	process := *spec.Process
	process.Args = []string{"sh", "-c", script}
	created, err := k.Exec(k.ctx, fmt.Sprintf("exec%d", time.Now().UnixNano()), &process, cio.NullIO)
	if err != nil {
		return 0, err
	}
	exit, err := created.Wait(k.ctx)
	if err == nil {
		err = created.Start(k.ctx)
	}
	if err == nil {
		select {
		case status := <-exit:
			code, _, err = status.Result()
		case <-k.ctx.Done():
			k.t.Error("an exec did not end")
		}
	}
	_, failed := created.Delete(k.ctx, client.WithProcessKill)
	return code, errors.Join(err, failed)
}

// attack is a kill that is to come.
type attack struct {
	stop   chan struct{}
	result chan bool
}

// attack kills the shim of a container, or one of its processes, after a while, in
// half of the lives.
func (l life) attack(id string) attack {
	a := attack{stop: make(chan struct{}), result: make(chan bool, 1)}
	delay := time.Duration(l.random.Int64N(int64(4 * time.Second)))
	choice := l.random.IntN(12)
	if choice >= 6 {
		a.result <- false
		return a
	}
	go func() {
		select {
		case <-time.After(delay):
		case <-a.stop:
			a.result <- false
			return
		}
		shim := findShim(id)
		victims := append([]int{shim}, children(shim)...)
		a.result <- shim != 0 && unix.Kill(victims[choice%len(victims)], unix.SIGKILL) == nil
	}()
	return a
}

// end tells whether something was killed, and that nothing is to be from now on.
func (a attack) end() bool {
	close(a.stop)
	return <-a.result
}

// children are the processes that a process has started (proc_pid_task(5)).
func children(pid int) (all []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		list, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(list)) {
			var child int
			if _, err := fmt.Sscan(word, &child); err == nil {
				all = append(all, child)
			}
		}
	}
	slices.Sort(all)
	return all
}
