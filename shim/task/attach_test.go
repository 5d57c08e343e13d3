package task_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// bundleOf is what the agent was given of a container.
func bundleOf(c client, id string) *api.CreateBundleRequest {
	c.T.Helper()
	for _, request := range fake.Requests[*api.CreateBundleRequest](c.Agent()) {
		if request.Container == id {
			return request
		}
	}
	c.T.Fatalf("the agent was given nothing of container %s", id)
	return nil
}

// guestSpec is a container's configuration in the guest.
func guestSpec(c client, id string) *specs.Spec {
	c.T.Helper()
	spec := new(specs.Spec)
	c.must(json.Unmarshal(bundleOf(c, id).Spec, spec))
	return spec
}

// Directories, files and sockets of the host are given to the agent by their tags, and are
// the container's mounts.
func TestMounts(t *testing.T) {
	c := open(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "a file")
	c.must(os.WriteFile(file, []byte("content"), 0o644))
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	c.must(err)
	defer listener.Close()
	below := filepath.Join(dir, "tree", "below")
	c.must(os.MkdirAll(below, 0o755))
	c.must(unix.Mount("msb-test", below, "tmpfs", 0, ""))
	defer func() { _ = unix.Unmount(below, unix.MNT_DETACH) }()

	spec := rig.Spec("sleep")
	mount := func(destination, source string, options ...string) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options})
	}
	mount("/file", file, "bind", "ro")
	mount("/run/socket", filepath.Join(dir, "socket"), "bind")
	mount("/tree", filepath.Join(dir, "tree"), "rbind", "ro")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/run/uds", Type: "uds", Source: filepath.Join(dir, "socket")})
	c.must(c.create("c", spec))

	bundle := bundleOf(c, "c")
	if len(bundle.Files) != 1 || string(bundle.Files[0].Name) != "a file" || bundle.Files[0].Destination != "/file" || !bundle.Files[0].ReadOnly {
		t.Errorf("files: %v", bundle.Files)
	}
	if len(bundle.Sockets) != 2 || bundle.Sockets[0].Destination != "/run/socket" || bundle.Sockets[1].Destination != "/run/uds" {
		t.Fatalf("sockets: %v", bundle.Sockets)
	}
	if len(bundle.Submounts) != 2 || !strings.HasSuffix(string(bundle.Submounts[1]), "/below") {
		t.Errorf("submounts: %q", bundle.Submounts)
	}
	sources := map[string]string{}
	for _, mount := range guestSpec(c, "c").Mounts {
		sources[mount.Destination] = mount.Source
		if mount.Type != "bind" {
			t.Errorf("%s is of type %s", mount.Destination, mount.Type) // runc knows no other for it
		}
	}
	for destination, source := range map[string]string{
		"/file":       api.FilePath("c", bundle.Files[0].Tag),
		"/run/socket": api.FilePath("c", bundle.Sockets[0].Tag),
		"/run/uds":    api.FilePath("c", bundle.Sockets[1].Tag),
		"/tree":       api.SharePath(string(bundle.Submounts[0])),
	} {
		if sources[destination] != source {
			t.Errorf("%s is of %q, want %q", destination, sources[destination], source)
		}
	}
	c.expectDelete("c", "", killed)
	c.expectNothingBelow(dir, below)
}

// An image that containers of a pod mount is staged once, and given to the agent as one.
func TestVolumes(t *testing.T) {
	bubble(t, func(c client) {
		file := filepath.Join(t.TempDir(), "volume.img")
		c.must(os.WriteFile(file, []byte("a file system"), 0o600))
		volume := specs.Mount{Destination: "/data", Type: "erofs", Source: file, Options: []string{"nodev"}}
		c.pod()
		var tags []string
		for _, id := range []string{"a", "b"} {
			spec := rig.InPod(rig.Spec("sleep"), "p", false)
			spec.Mounts = append(spec.Mounts, volume)
			c.must(c.create(id, spec))
			volumes := bundleOf(c, id).Volumes
			if len(volumes) != 1 || volumes[0].Type != "erofs" || string(volumes[0].File.Name) != "volume.img" || !volumes[0].File.ReadOnly {
				t.Fatalf("volumes: %v", volumes)
			}
			tags = append(tags, volumes[0].File.Tag)
			mounts := guestSpec(c, id).Mounts
			if last := mounts[slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == "/data" })]; last.Source != api.ImagePath(tags[0]) {
				t.Errorf("it is mounted from %s", last.Source)
			}
		}
		if tags[0] != tags[1] {
			t.Errorf("it was staged twice: %q", tags)
		}
		c.remove("a")
		c.remove("b")
		removed := fake.Requests[*api.RemoveBundleRequest](c.Agent())
		if len(removed) != 2 || len(removed[0].Images) != 0 || !slices.Equal(removed[1].Images, tags[:1]) {
			t.Errorf("the agent was to take away %v", removed)
		}
		c.remove("p")
		c.ended()
	})
}

// A mount of a socket is of nothing else.
func TestSocketThatIsNone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{file, dir, "/dev/null"} {
		bubble(t, func(c client) {
			spec := rig.Spec("sleep")
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/run/uds", Type: "uds", Source: source})
			err := c.create("c", spec)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "mount /run/uds: source "+source) {
				t.Errorf("%s: %v", source, err)
			}
			if n := len(c.Driver.Machines()); n != 0 {
				t.Errorf("%d machines", n)
			}
			c.ExpectNoMounts()
		})
	}
}

// expectNothingBelow is ExpectNoMounts for a test with mounts of its own.
func (c client) expectNothingBelow(dir, own string) {
	c.T.Helper()
	c.must(unix.Unmount(own, 0))
	c.ExpectNoMounts()
	if _, err := os.Stat(filepath.Join(dir, "a file")); err != nil {
		c.T.Error(err)
	}
}

// The placeholder's end is the container's, as with runc.
func TestPlaceholderKilled(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.Placeholders()[0].Kill()
		c.expectExit("c", "", killed)
		c.expectDelete("c", "", killed)
		c.expectTopics("create start exit delete")
	})
}

// If the guest does not make it so, the VM goes.
func TestPlaceholderKilledHostileGuest(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.Agent().On("Kill", fake.Fail(errors.New("no")))
		began := time.Now()
		c.Placeholders()[0].Kill()
		c.expectExit("c", "", killed)
		if took := time.Since(began); took < c.Platform.Budgets.Prompt || took > c.Platform.Budgets.Prompt+5*time.Second {
			t.Errorf("it took %v", took)
		}
		c.expectDelete("c", "", killed)
	})
}

// A placeholder that is killed before its container is there ends the creation: there
// must be no container whose pid is anybody's.
func TestPlaceholderKilledDuringCreate(t *testing.T) {
	bubble(t, func(c client) {
		told := make(chan struct{})
		c.Driver.Boot = fake.BootsWhen(told)
		created := beside(c.creation(c.Request("c", rig.Spec("sleep"))))
		time.Sleep(time.Second)
		c.Placeholders()[0].Kill()
		time.Sleep(time.Second)
		close(told)
		if err := <-created; err == nil {
			t.Error("it was created")
		}
		c.isDown()
	})
}

// When a placeholder is killed at the end of a creation in a pod, either there is no
// container or it is killed.
func TestPlaceholderKilledDuringCreateInPod(t *testing.T) {
	for _, call := range []string{"CreateBundle", "Create"} {
		bubble(t, func(c client) {
			c.pod()
			gate := c.Agent().Gate(call)
			created := c.held(gate, c.creation(c.Request("c", member("sleep"))))
			c.Placeholders()[1].Kill()
			time.Sleep(time.Second)
			gate.Open()
			if err := <-created; err == nil {
				c.expectExit("c", "", killed)
				c.expectDelete("c", "", killed)
			}
			c.expectState("p", "", tasktypes.Status_RUNNING)
			c.remove("p")
		})
	}
}

// A bundle has the record of its task, for who comes after a shim that was killed.
func TestRecord(t *testing.T) {
	c := open(t)
	request := c.Request("c", rig.Spec("sleep"))
	began := time.Now()
	nothing, err := task.ReadRecord(request.Bundle)
	if err != nil || nothing.Pid != 0 || nothing.Status != killed || nothing.ExitedAt.Before(began) {
		t.Errorf("before: %v, %v", nothing, err)
	}
	_, err = c.Tasks.Create(c.ctx, request)
	c.must(err)
	c.must(c.start("c", ""))
	pid := uint32(c.Placeholders()[0].Pid())
	if record, err := task.ReadRecord(request.Bundle); err != nil || record.Pid != pid || record.Status != killed {
		t.Errorf("while it runs: %v, %v", record, err)
	}
	c.must(c.Agent().Exit("c", "", 6))
	exit, err := c.wait("c", "")
	c.must(err)
	record, err := task.ReadRecord(request.Bundle)
	if err != nil || record.Pid != pid || record.Status != 6 || !record.ExitedAt.Equal(exit.ExitedAt.AsTime()) {
		t.Errorf("after its exit: %v, %v, and Wait told %v", record, err, exit)
	}
	c.must(os.WriteFile(filepath.Join(request.Bundle, "task.json"), []byte("{"), 0o600))
	if record, err := task.ReadRecord(request.Bundle); err == nil || record.Status != killed {
		t.Errorf("of a broken file: %v, %v", record, err)
	}
	c.must(os.RemoveAll(request.Bundle + "/task.json"))
}

// When anyone learns of a container's exit, its pid is nobody's.
func TestPlaceholderEndsBeforeExit(t *testing.T) {
	c := open(t)
	c.Run("c", "exit", "0")
	c.expectExit("c", "", 0)
	select {
	case <-c.Placeholders()[0].Exited():
	default:
		t.Error("the placeholder still runs")
	}
}

// script makes a hook that notes its state in a file.
func script(t *testing.T, dir, name, after string) specs.Hook {
	t.Helper()
	path := filepath.Join(dir, name)
	text := "#!/bin/sh\ncat > " + path + ".state\n" + after + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return specs.Hook{Path: path}
}

// expectHook checks the state that a hook was given.
func expectHook(t *testing.T, h specs.Hook, status specs.ContainerState, pid int) {
	t.Helper()
	var state specs.State
	data, err := os.ReadFile(h.Path + ".state")
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil || state.ID != "c" || state.Status != status || state.Pid != pid {
		t.Errorf("%s: %v, %+v", h.Path, err, state)
	}
}

// Hooks of the host run in the order of the life of their container.
func TestHooks(t *testing.T) {
	c := open(t)
	dir := t.TempDir()
	spec := rig.Spec("sleep")
	create := script(t, dir, "create", "")
	start := script(t, dir, "start", "")
	stop := script(t, dir, "stop", "exit 1")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{create}, Poststart: []specs.Hook{start}, Poststop: []specs.Hook{stop}}
	c.must(c.create("c", spec))
	pid := c.Placeholders()[0].Pid()
	expectHook(t, create, specs.StateCreating, pid)
	c.must(c.start("c", ""))
	expectHook(t, start, specs.StateRunning, pid)
	c.remove("c")
	expectHook(t, stop, specs.StateStopped, 0)
}

// A hook that fails after the start ends the container.
func TestFailingPoststart(t *testing.T) {
	c := open(t)
	spec := rig.Spec("sleep")
	spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{script(t, t.TempDir(), "failing", "echo because; exit 1")}}
	c.must(c.create("c", spec))
	if err := c.start("c", ""); err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("Start = %v", err)
	}
	c.expectExit("c", "", 128+uint32(unix.SIGKILL))
	c.expectDelete("c", "", 128+uint32(unix.SIGKILL))
}

// A hook that fails after the start kills its container once, and the rest of its pod lives on,
// whatever the guest makes of that: as with runc, where others do not share what it runs in. A
// client's kill holds after it as ever.
func TestFailingPoststartInPod(t *testing.T) {
	for name, kill := range map[string]fake.Behaviour{
		"killed": fake.Honest, "refused": fake.Fail(errdefs.ErrInternal), "not done": fake.Pretend,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				c.pod()
				c.joinPod("other", "sleep")
				c.must(c.start("other", ""))
				spec := member("sleep")
				spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{script(t, t.TempDir(), "failing", "echo because; exit 1")}}
				c.must(c.create("c", spec))
				c.Agent().On("Kill", kill)
				if err := c.start("c", ""); err == nil || !strings.Contains(err.Error(), "because") {
					t.Errorf("Start = %v", err)
				}
				time.Sleep(2 * guest.DefaultBudgets.Prompt)
				c.expectState("other", "", tasktypes.Status_RUNNING)
				c.expectState("p", "", tasktypes.Status_RUNNING)
				if name == "killed" {
					c.expectExit("c", "", killed)
				} else {
					c.expectState("c", "", tasktypes.Status_RUNNING)
					c.Agent().On("Kill", fake.Honest)
					c.must(c.kill("c", ""))
					c.expectExit("c", "", killed)
				}
				c.expectDelete("c", "", killed)
				c.expectState("other", "", tasktypes.Status_RUNNING)
			})
		})
	}
}

// A hook that fails ends the creation, and poststop hooks run then.
func TestFailingHook(t *testing.T) {
	for _, kind := range []string{"prestart", "createRuntime"} {
		t.Run(kind, func(t *testing.T) {
			c := open(t)
			dir := t.TempDir()
			spec := rig.Spec("sleep")
			failing := script(t, dir, "failing", "echo because; exit 1")
			stop := script(t, dir, "stop", "")
			spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{stop}}
			if kind == "prestart" {
				//lint:ignore SA1019 clients still set prestart hooks
				spec.Hooks.Prestart = []specs.Hook{failing}
			} else {
				spec.Hooks.CreateRuntime = []specs.Hook{failing}
			}
			request := c.Request("c", spec)
			if _, err := c.Tasks.Create(c.ctx, request); err == nil || !strings.Contains(err.Error(), "because") {
				t.Errorf("Create = %v", err)
			}
			expectHook(t, stop, specs.StateStopped, 0)
			if pending, err := hook.TakePending(request.Bundle); pending || err != nil {
				t.Errorf("hooks are pending: %v, %v", pending, err)
			}
			c.ExpectNoMounts()
		})
	}
}
