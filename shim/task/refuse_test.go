package task_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// What cannot be is refused, and leaves nothing.
func TestCreateRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		change func(client, *taskapi.CreateTaskRequest)
		is     func(error) bool
	}{
		"no id":                 {func(_ client, r *taskapi.CreateTaskRequest) { r.ID = "" }, errdefs.IsInvalidArgument},
		"an id that is a path":  {func(_ client, r *taskapi.CreateTaskRequest) { r.ID = "../c" }, errdefs.IsInvalidArgument},
		"a checkpoint":          {func(_ client, r *taskapi.CreateTaskRequest) { r.Checkpoint = "/c" }, errdefs.IsNotImplemented},
		"a parent's checkpoint": {func(_ client, r *taskapi.CreateTaskRequest) { r.ParentCheckpoint = "/c" }, errdefs.IsNotImplemented},
		"no bundle":             {func(_ client, r *taskapi.CreateTaskRequest) { r.Bundle += "/nothing" }, errdefs.IsInvalidArgument},
		"options that are none": {func(c client, r *taskapi.CreateTaskRequest) {
			options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("wrong = 1\n")})
			c.must(err)
			r.Options = options
		}, func(err error) bool { return err != nil }},
		"no root file system": {func(c client, r *taskapi.CreateTaskRequest) {
			c.must(os.Remove(filepath.Join(r.Bundle, "rootfs")))
		}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"a mount of nothing": {func(c client, r *taskapi.CreateTaskRequest) {
			spec := rig.Spec("sleep")
			spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/nothing/there"}}
			r.Bundle = c.Bundle(spec)
		}, errdefs.IsNotFound},
		"an option for files on a directory": {func(c client, r *taskapi.CreateTaskRequest) {
			spec := rig.Spec("sleep")
			spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: c.T.TempDir(), Options: []string{"x-msb.update=follow"}}}
			r.Bundle = c.Bundle(spec)
		}, errdefs.IsInvalidArgument},
		"an option for directories on a file": {func(c client, r *taskapi.CreateTaskRequest) {
			file := filepath.Join(c.T.TempDir(), "file")
			c.must(os.WriteFile(file, nil, 0o600))
			spec := rig.Spec("sleep")
			spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: file, Options: []string{"x-msb.sockets=off"}}}
			r.Bundle = c.Bundle(spec)
		}, errdefs.IsInvalidArgument},
		"a size that is none": {func(c client, r *taskapi.CreateTaskRequest) {
			spec := rig.Spec("sleep")
			spec.Annotations = map[string]string{"io.containerd.msb.vm.cpus": "none"}
			r.Bundle = c.Bundle(spec)
		}, errdefs.IsInvalidArgument},
		"a pod that is not there": {func(c client, r *taskapi.CreateTaskRequest) {
			r.Bundle = c.Bundle(member("sleep"))
		}, errdefs.IsFailedPrecondition},
		"shared memory of a pod that is not there": {func(c client, r *taskapi.CreateTaskRequest) {
			spec := rig.InPod(rig.Spec("pause"), "p", true)
			spec.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: "/nothing/p/shm", Options: []string{"rbind"}}}
			r.Bundle = c.Bundle(spec)
		}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"a namespace of others": {func(c client, r *taskapi.CreateTaskRequest) {
			spec := rig.Spec("sleep")
			spec.Linux.Namespaces[1].Path = "/proc/1/ns/pid"
			r.Bundle = c.Bundle(spec)
		}, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				request := c.Request("c", rig.Spec("sleep"))
				row.change(c, request)
				counts := counted.Begin(t)
				if _, err := c.Tasks.Create(c.ctx, request); !row.is(err) {
					t.Errorf("Create = %v", err)
				}
				kind := "refusals "
				if len(c.Driver.Machines()) > 0 { // it was found out late
					kind = "starts none cold failure "
				}
				if got := counts(); !strings.HasPrefix(got, kind) || !strings.HasSuffix(got, " 1") || strings.Contains(got, ",") {
					t.Errorf("counted: %s", got)
				}
				if c.Pod.Busy() {
					t.Error("it is a member of its pod")
				}
				c.expectTopics("")
				c.ExpectNoMounts()
			})
		})
	}
}

// What the host or the VM cannot do leaves nothing, either.
func TestCreateFails(t *testing.T) {
	broken := errors.New("broken")
	for name, change := range map[string]func(client){
		"the driver": func(c client) {
			c.Driver.Starting = func(context.Context, vm.Config) error { return broken }
		},
		"the network": func(c client) {
			c.Platform.OpenNetwork = func(mountns.Namespace, string) (sandbox.Network, error) { return nil, broken }
		},
		"the placeholder": func(c client) {
			c.Platform.Placeholder = func(jail.Program, *jail.Root, *os.File) (sandbox.Process, error) { return nil, broken }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				change(c)
				counts := counted.Begin(t)
				if err := c.create("c", rig.Spec("sleep")); !errors.Is(err, broken) {
					t.Errorf("Create = %v", err)
				}
				if got := counts(); got != "starts none cold failure 1" {
					t.Errorf("counted: %s", got)
				}
				c.isDown()
				c.ExpectNoMounts()
			})
		})
	}
}

// An id is taken from the beginning of a creation on, and a shim has one VM.
func TestCreateTwice(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	if err := c.create("c", rig.Spec("sleep")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another of its id: %v", err)
	}
	if err := c.create("d", rig.Spec("sleep")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another VM: %v", err)
	}
	if err := c.create("e", member("sleep")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container of another pod: %v", err)
	}
	c.remove("c")
	if err := c.create("c", rig.Spec("sleep")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one after the VM's end: %v", err)
	}
	if n := len(c.Driver.Machines()); n != 1 {
		t.Errorf("%d machines", n)
	}
}

// Calls for a task that is not there, and for one whose VM is gone.
func TestCallsForNothing(t *testing.T) {
	calls := func(c client, id string) map[string]error {
		results := map[string]error{"Start": c.start(id, ""), "Exec": c.exec(id, "new", "sleep")}
		add := func(name string, _ any, err error) { results[name] = err }
		response, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: id})
		add("Pause", response, err)
		response, err = c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: id})
		add("Resume", response, err)
		response, err = c.Tasks.ResizePty(c.ctx, &taskapi.ResizePtyRequest{ID: id})
		add("ResizePty", response, err)
		response, err = c.Tasks.CloseIO(c.ctx, &taskapi.CloseIORequest{ID: id, Stdin: true})
		add("CloseIO", response, err)
		response, err = c.Tasks.Update(c.ctx, &taskapi.UpdateTaskRequest{ID: id})
		add("Update", response, err)
		_, err = c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: id})
		add("Stats", nil, err)
		return results
	}
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		for name, err := range calls(c, "other") {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s of no task: %v", name, err)
			}
		}
		if _, err := c.Tasks.Checkpoint(c.ctx, &taskapi.CheckpointTaskRequest{ID: "other"}); !errdefs.IsNotFound(err) {
			t.Errorf("Checkpoint of no task: %v", err)
		}
		if _, err := c.Tasks.Checkpoint(c.ctx, &taskapi.CheckpointTaskRequest{ID: "c"}); !errdefs.IsNotImplemented(err) {
			t.Errorf("Checkpoint: %v", err)
		}
		c.Machine().Die(nil)
		c.expectExit("c", "", killed)
		for name, err := range calls(c, "c") {
			// containerd passes over a task without metrics.
			if is := map[bool]func(error) bool{true: errdefs.IsNotFound, false: errdefs.IsUnavailable}[name == "Stats"]; !is(err) {
				t.Errorf("%s of a task whose VM is gone: %v", name, err)
			}
		}
		c.expectDelete("c", "", killed)
	})
}
