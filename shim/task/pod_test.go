package task_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// Containers of a pod share its VM, and come and go.
func TestPod(t *testing.T) {
	bubble(t, func(c client) {
		counts := counted.Begin(t)
		c.pod()
		for _, id := range []string{"a", "b"} {
			c.joinPod(id, "sleep")
			c.must(c.start(id, ""))
		}
		c.remove("a")
		c.expectState("b", "", tasktypes.Status_RUNNING)
		c.remove("b")
		c.expectState("p", "", tasktypes.Status_RUNNING)
		c.remove("p")
		if n := len(c.Driver.Machines()); n != 1 {
			t.Errorf("%d machines", n)
		}
		if got := counts(); !strings.Contains(got, "starts none cold success 1, starts none joined success 2") {
			t.Errorf("counted: %s", got)
		}
		c.ended()
		c.expectNothing()
		c.isDown()
	})
}

// With its owner a pod ends: what runs in it is killed in order, and can still be deleted.
func TestOwnerLeaves(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("runs", "sleep")
		c.must(c.start("runs", ""))
		c.run("runs", "e", "sleep")
		c.joinPod("created", "sleep")
		c.joinPod("ended", "exit", "3")
		c.must(c.start("ended", ""))
		c.expectExit("ended", "", 3)
		c.remove("p")
		c.ended()
		for _, left := range c.Agent().Left() {
			if strings.HasPrefix(left, "bundle") {
				t.Errorf("its data was not written back: %s", left)
			}
		}
		c.ExpectNoMounts()
		if err := c.create("late", member("sleep")); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("joining after the end: %v", err)
		}
		for id, status := range map[string]uint32{"runs": killed, "created": killed, "ended": 3} {
			c.expectState(id, "", tasktypes.Status_STOPPED)
			c.expectExit(id, "", status)
		}
		c.expectExit("runs", "e", killed)
		c.expectDelete("runs", "e", killed)
		for id, status := range map[string]uint32{"runs": killed, "created": killed, "ended": 3} {
			c.expectDelete(id, "", status)
		}
		c.isDown()
	})
}

// An owner that leaves does not wait for members for ever, and takes those along that are
// being created.
func TestOwnerLeavesDuringCreate(t *testing.T) {
	for _, call := range []string{"CreateBundle", "Create"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(c client) {
				c.pod()
				gate := c.Agent().Gate(call)
				created := c.held(gate, c.creation(c.Request("c", member("sleep"))))
				began := time.Now()
				c.remove("p")
				if err := <-created; err == nil {
					t.Error("it was created")
				}
				if took := time.Since(began); took > 35*time.Second {
					t.Errorf("it took %v", took)
				}
				c.ExpectNoMounts()
				c.isDown()
			})
		})
	}
}

// Members whose end the guest does not bring about cost its VM a budget and no more.
func TestOwnerLeavesHostileGuest(t *testing.T) {
	for _, call := range []string{"Kill", "RemoveBundle"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(c client) {
				c.pod()
				for i := range 3 {
					c.joinPod(fmt.Sprint("c", i), "sleep")
					c.must(c.start(fmt.Sprint("c", i), ""))
				}
				c.must(c.kill("p", ""))
				c.expectExit("p", "", killed)
				c.Agent().On(call, fake.Pretend)
				if call == "RemoveBundle" {
					c.Agent().On(call, fake.Hang)
				}
				began := time.Now()
				c.expectDelete("p", "", killed)
				took := time.Since(began)
				t.Logf("with %s it took %v", call, took)
				if took > endWithin {
					t.Errorf("it took %v", took)
				}
				for i := range 3 {
					c.expectDelete(fmt.Sprint("c", i), "", killed)
				}
				c.isDown()
			})
		})
	}
}

// A directory that two containers of a pod mount is shared once, and goes with the last.
func TestSharedByTwo(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		dir := c.T.TempDir()
		for _, id := range []string{"a", "b"} {
			spec := member("sleep")
			spec.Mounts = []specs.Mount{{Destination: "/data", Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
			c.must(c.create(id, spec))
		}
		submounts := map[string]string{}
		for _, request := range fake.Requests[*api.CreateBundleRequest](c.Agent()) {
			if len(request.Submounts) == 1 {
				submounts[request.Container] = string(request.Submounts[0])
			}
		}
		tag := submounts["a"]
		if tag == "" || submounts["b"] != tag {
			t.Fatalf("the containers have %v", submounts)
		}
		for i, id := range []string{"a", "b"} {
			c.expectDelete(id, "", killed)
			requests := fake.Requests[*api.RemoveBundleRequest](c.Agent())
			if given := slices.Contains(requests[i].Shares, tag); given != (id == "b") {
				t.Errorf("with %s the guest lets go of the share: %v", id, given)
			}
		}
	})
}

// A container of a pod joins the namespaces of another by the process that stands for it.
func TestJoinNamespaces(t *testing.T) {
	c := open(t)
	c.pod()
	join := func(pid int) *specs.Spec {
		spec := member("sleep")
		for i := range spec.Linux.Namespaces {
			if kind := spec.Linux.Namespaces[i].Type; kind == specs.PIDNamespace || kind == specs.IPCNamespace {
				spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
			}
		}
		return spec
	}
	pid := c.Placeholders()[0].Pid()
	c.must(c.create("a", join(pid)))
	paths := map[specs.LinuxNamespaceType]string{}
	for _, namespace := range guestSpec(c, "a").Linux.Namespaces {
		paths[namespace.Type] = namespace.Path
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace} {
		if want := api.NamespacePath(100, string(kind)); paths[kind] != want { // the fake's first process
			t.Errorf("its %s namespace is %q, want %q", kind, paths[kind], want)
		}
	}
	if err := c.create("b", join(pid+17)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("joining nobody: %v", err)
	}
	c.must(c.kill("a", ""))
	c.expectExit("a", "", killed)
	if err := c.create("b", join(c.Placeholders()[1].Pid())); !errdefs.IsInvalidArgument(err) {
		t.Errorf("joining a container that has ended: %v", err)
	}
}

// The user namespace is the whole VM's.
func TestJoinUsers(t *testing.T) {
	c := open(t)
	c.pod()
	spec := member("sleep")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	if err := c.create("a", spec); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a container with other users: %v", err)
	}
}

// The size of a pod's shared memory is that of the host's.
func TestPodSharedMemory(t *testing.T) {
	c := open(t)
	dir := filepath.Join(t.TempDir(), "p", "shm")
	c.must(os.MkdirAll(dir, 0o755))
	spec := rig.InPod(rig.Spec("pause"), "p", true)
	spec.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: dir, Options: []string{"rbind"}}}
	c.must(c.create("p", spec))
	requests := fake.Requests[*api.CreatePodRequest](c.Agent())
	if len(requests) != 1 || requests[0].SharedMemory <= 0 {
		t.Errorf("%v", requests)
	}
}

// A pod that the guest does not make has no sandbox container.
func TestPodThatIsNotMade(t *testing.T) {
	bubble(t, func(c client) {
		c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("CreatePod", fake.Fail(errors.New("no"))) }
		if err := c.create("p", rig.InPod(rig.Spec("pause"), "p", true)); err == nil {
			t.Error("it was created")
		}
		c.isDown()
		c.ExpectNoMounts()
	})
}

// asking is a configuration that asks for the host's namespaces of some kinds.
func asking(spec *specs.Spec, kinds ...specs.LinuxNamespaceType) *specs.Spec {
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return slices.Contains(kinds, n.Type) })
	return spec
}

// Who asks for a namespace of the host is refused before anything boots, and told what the
// administrator can do.
func TestHostNamespacesRefused(t *testing.T) {
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		for id, spec := range map[string]*specs.Spec{"c": rig.Spec("sleep"), "p": rig.InPod(rig.Spec("pause"), "p", true)} {
			bubble(t, func(c client) {
				err := c.create(id, asking(spec, kind))
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `compat.host_namespaces = "vm"`) {
					t.Errorf("%s of %s: %v", kind, id, err)
				}
				if n := len(c.Driver.Machines()); n != 0 {
					t.Errorf("%d machines", n)
				}
				c.ExpectNoMounts()
			})
		}
	}
}

// Where the administrator allows it, a process of the VM holds those that stand for the
// host's, and it is not the agent.
func TestHostNamespacesOfVM(t *testing.T) {
	kinds := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace}
	expect := func(c client, id string, holder uint32) {
		t.Helper()
		paths := map[specs.LinuxNamespaceType]string{}
		for _, namespace := range guestSpec(c, id).Linux.Namespaces {
			paths[namespace.Type] = namespace.Path
		}
		for _, kind := range kinds {
			if want := api.NamespacePath(holder, string(kind)); holder <= 1 || paths[kind] != want {
				t.Errorf("%s: the %s namespace is %q, want %q", id, kind, paths[kind], want)
			}
		}
	}
	withVM := func(test func(client)) {
		bubble(t, func(c client) {
			c.Config = "[compat]\nhost_namespaces = \"vm\"\n"
			test(c)
		})
	}
	withVM(func(c client) {
		c.must(c.create("c", asking(rig.Spec("sleep"), kinds...)))
		expect(c, "c", c.Pod.Holder().Guest)
	})
	withVM(func(c client) {
		c.must(c.create("c", rig.Spec("sleep")))
		if n := len(fake.Requests[*api.CreatePodRequest](c.Agent())); n != 0 {
			t.Errorf("nobody asked, and %d holders were started", n)
		}
	})
	withVM(func(c client) { // a pod that does not ask, and a container of it that does
		c.pod()
		c.must(c.create("a", asking(member("sleep"), kinds...)))
		expect(c, "a", c.Pod.Holder().Guest)
	})
	withVM(func(c client) { // a pod that asks: its containers join it
		c.must(c.create("p", asking(rig.InPod(rig.Spec("pause"), "p", true), kinds...)))
		expect(c, "p", c.Pod.Holder().Guest)
	})
}
