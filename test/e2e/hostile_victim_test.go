package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A victim is a container of a guest, as a client of containerd sees it.
type victim struct {
	h      *hostileHost
	id     string
	row    hostileRow
	result hostileResult
	logged int // size of the log at the beginning

	metrics []metricsSample // of row.client

	dir       string // of its own on the host
	socket    net.Listener
	container client.Container
	task      client.Task // set when the create has ended
	starting  chan error  // gets the result of create and start
	abandon   func()      // the client that creates and starts goes away
	processes []int       // of the VM on the host
	memory    *memoryWatch
}

func (h *hostileHost) newVictim(row hostileRow) *victim {
	return &victim{
		h: h, row: row, id: fmt.Sprintf("hostile-%d", time.Now().UnixNano()), starting: make(chan error, 1),
		logged: len(h.host.Log()), result: hostileResult{row: row, began: time.Now()},
	}
}

// live is all of its life, and what that cost.
func (v *victim) live() hostileResult {
	if err := v.begin(); err != nil {
		v.fail("%v", err)
	}
	if err := v.suffer(); err != nil {
		v.fail("%v", err)
	}
	v.end()
	v.conclude()
	return v.result
}

func (v *victim) fail(format string, arguments ...any) {
	v.result.failed = append(v.result.failed, cut(fmt.Sprintf(format, arguments...)))
}

// begin makes the container and returns when it has started, or when its guest is stuck.
func (v *victim) begin() error {
	v.h.boots <- struct{}{}
	defer func() { <-v.h.boots }()
	if err := v.make(); err != nil {
		return err
	}
	v.memory = watchMemory(v.id)
	ctx, cancel := hostileContext(harness.Patience)
	v.abandon = cancel
	go func() { v.starting <- v.start(ctx) }()
	if v.row.stuck != "" {
		return v.await("does " + v.row.words)
	}
	v.result.start = <-v.starting
	v.starting <- nil
	return nil
}

// make makes the container, with the words for its agent.
func (v *victim) make() (err error) {
	if v.dir, err = os.MkdirTemp(v.h.host.Dir, "guest-"); err != nil {
		return err
	}
	ctx, cancel := v.h.host.Context()
	defer cancel()
	image, err := v.h.host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		return err
	}
	config, err := v.config()
	if err != nil {
		return err
	}
	spec := []oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs(sleeper...)}
	if !v.row.onDisk && v.row.words != "" {
		spec = append(spec, oci.WithEnv([]string{"MSB_HOSTILE=" + v.words()}))
	}
	if v.row.hostNetwork {
		spec = append(spec, oci.WithHostNamespace(specs.NetworkNamespace))
	}
	if v.row.socket {
		if err := v.listen(); err != nil {
			return err
		}
		spec = append(spec, oci.WithMounts([]specs.Mount{bind(v.socket.Addr().String(), "/socket")}))
	}
	v.container, err = v.h.host.Client.NewContainer(ctx, v.id, client.WithNewSnapshot(v.id, image), client.WithNewSpec(spec...),
		client.WithRuntime(harness.Runtime, &runtimeoptions.Options{ConfigPath: config}))
	return err
}

// words begin with the name by which the agent calls itself on its console.
func (v *victim) words() string { return "as:" + v.id + " " + v.row.words }

// config is the runtime's configuration file, with a kit of the hostile agent.
func (v *victim) config() (string, error) {
	if v.row.words == "" {
		return v.h.host.Config, nil
	}
	words, boot := "", harness.Patience
	if v.row.onDisk {
		words, boot = v.words(), 20*time.Second
	}
	kit := filepath.Join(v.dir, "kit")
	if err := os.Mkdir(kit, 0o755); err != nil {
		return "", err
	}
	if err := v.h.host.HostileKit(kit, words); err != nil {
		return "", err
	}
	file := filepath.Join(v.dir, "msb.toml")
	return file, os.WriteFile(file, fmt.Appendf(nil, "driver = %q\nkit = %q\n[vm]\nboot_timeout = %q\n", v.h.host.Driver, kit, boot), 0o600)
}

// listen makes a socket of the host whose connections nobody reads.
func (v *victim) listen() (err error) {
	v.socket, err = net.Listen("unix", filepath.Join(v.dir, "socket"))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := v.socket.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	return nil
}

func (v *victim) start(ctx context.Context) (err error) {
	if v.task, err = v.container.NewTask(ctx, cio.NullIO); err != nil {
		return err
	}
	return v.task.Start(ctx)
}

// await waits until the agent tells on its console that it does something.
func (v *victim) await(what string) error {
	for deadline := time.Now().Add(harness.Patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if strings.Contains(v.h.host.Log(), v.id+": "+what) {
			return nil
		}
	}
	return fmt.Errorf("the agent does not say that it %s", what)
}

// suffer lets the agent do what it does.
func (v *victim) suffer() error {
	v.processes = children(findShim(v.id))
	for word := range strings.FieldsSeq(v.row.words) {
		if verb, _, _ := strings.Cut(word, ":"); slices.Contains(attacks, verb) && v.row.stuck == "" {
			if err := v.await("begins " + word); err != nil {
				return err
			}
		}
	}
	over := time.After(v.row.goesOn)
	if v.row.client != nil && v.task != nil {
		v.row.client(v)
	}
	<-over
	return nil
}

// end kills and deletes the container as ctr does, which looks the task up first. One whose
// create does not end is ended by its client's going away.
func (v *victim) end() {
	began := time.Now()
	if v.row.stuck == inCreate {
		v.abandon()
		err := <-v.starting
		v.starting <- nil
		if err == nil {
			v.fail("it started")
		}
		for time.Since(began) < endLimit && len(v.left()) > 0 {
			time.Sleep(200 * time.Millisecond)
		}
		v.result.deletion = time.Since(began)
		return
	}
	ctx, cancel := hostileContext(callLimit)
	defer cancel()
	// containerd gives a shim two seconds to say its task's state, which a busy machine may take.
	task, err := harness.AskAgain(v.h.t.Logf, "the task of "+v.id, func() (client.Task, bool, error) {
		task, err := v.container.Task(ctx, nil)
		return task, errdefs.IsDeadlineExceeded(err) && ctx.Err() == nil, err
	})
	if err != nil {
		v.fail("its task is not shown: %v", err)
		if v.row.stuck != "" || v.task == nil {
			return
		}
		task = v.task
	}
	if err := task.Kill(ctx, unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		v.fail("kill: %v", err)
	}
	v.result.kill = time.Since(began)
	if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		v.fail("delete: %v", err)
	}
	v.result.deletion = time.Since(began) - v.result.kill
}

// conclude notes what is left and what it cost, and takes away what the shim did not.
func (v *victim) conclude() {
	harness.Eventually(func() bool {
		v.result.left = v.left()
		return len(v.result.left) == 0
	})
	v.result.took = time.Since(v.result.began)
	v.result.logged = len(v.h.host.Log()) - v.logged
	v.result.memory = v.memory.stop()
	if v != v.h.good {
		v.result.memory -= v.h.good.memory.now()
		v.result.metrics = judge(append(v.metrics, v.h.metrics.since(v.result.began)...))
	}
	if err := v.clean(); err != nil {
		v.h.t.Errorf("%s: cleaning up: %v", v.row.name, err)
	}
}

// left is what is left of it on the host.
func (v *victim) left() (left []string) {
	names := harness.Processes()
	for _, pid := range append(slices.Clone(v.processes), findShim(v.id)) {
		if names[pid] != "" {
			left = append(left, names[pid])
		}
	}
	for what := range v.h.host.Leftovers() {
		if kind, _, _ := strings.Cut(what, " "); strings.Contains(what, v.id) {
			left = append(left, kind)
		}
	}
	slices.Sort(left)
	return slices.Compact(left)
}

// clean takes all of it from the host, by force.
func (v *victim) clean() error {
	v.abandon()
	ctx, cancel := v.h.host.Context()
	defer cancel()
	gone := harness.Eventually(func() bool {
		if len(v.left()) == 0 {
			return true
		}
		for _, pid := range append(slices.Clone(v.processes), findShim(v.id)) {
			if harness.Processes()[pid] != "" {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		ctx, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		_, _ = v.h.host.Client.TaskService().Delete(ctx, deleteRequest(v.id))
		return false
	})
	if !gone {
		return fmt.Errorf("%s do not go", strings.Join(v.left(), ", "))
	}
	<-v.starting
	if v.socket != nil {
		v.socket.Close()
	}
	if err := v.container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
		return err
	}
	return os.RemoveAll(v.dir)
}
