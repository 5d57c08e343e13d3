package podapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// runOther creates and starts a sandbox as a client does that is not the CRI plugin:
// without options, with a network namespace and a configuration if there are any.
func (w *world) runOther(network string, spec *specs.Spec) {
	w.T.Helper()
	if spec != nil {
		data, err := json.Marshal(spec)
		if err == nil {
			err = os.WriteFile(filepath.Join(w.bundle, "config.json"), data, 0o600)
		}
		if err != nil {
			w.T.Fatal(err)
		}
	}
	request := &sandboxapi.CreateSandboxRequest{SandboxID: podID, BundlePath: w.bundle, NetnsPath: network}
	if _, err := w.Sandboxes.CreateSandbox(context.Background(), request); err != nil {
		w.T.Fatalf("CreateSandbox: %v", err)
	}
	if _, err := w.start(context.Background()); err != nil {
		w.T.Fatalf("StartSandbox: %v", err)
	}
}

func (w *world) createContainer(id string, change ...func(*specs.Spec)) error {
	w.T.Helper()
	spec := rig.Spec("sleep")
	for _, c := range change {
		c(spec)
	}
	_, err := w.Tasks.Create(context.Background(), w.Request(id, spec))
	return err
}

// member creates a container that must be taken, and returns its configuration in the guest.
func (w *world) member(id string, change ...func(*specs.Spec)) (guest specs.Spec) {
	w.T.Helper()
	if err := w.createContainer(id, change...); err != nil {
		w.T.Fatalf("creating %s: %v", id, err)
	}
	for _, request := range fake.Requests[*api.CreateBundleRequest](w.Agent()) {
		if request.Container == id {
			if err := json.Unmarshal(request.Spec, &guest); err != nil {
				w.T.Fatal(err)
			}
		}
	}
	return guest
}

func at(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		without(kind)(s)
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
}

func without(kinds ...specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return slices.Contains(kinds, n.Type) })
	}
}

func withMemory(s *specs.Spec) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"})
}

// place is where a container's namespace is in the guest; empty is a new one.
func place(spec specs.Spec, kind specs.LinuxNamespaceType) string {
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type == kind {
			return namespace.Path
		}
	}
	return "the agent's"
}

// memory is what a container has at /dev/shm.
func memory(spec specs.Spec) string {
	for _, mount := range spec.Mounts {
		if mount.Destination == "/dev/shm" {
			return mount.Source
		}
	}
	return ""
}

// Whoever makes a container in a sandbox, and whatever its annotations say: it is a member.
func TestMembers(t *testing.T) {
	bubble(t, func(w *world) {
		w.runOther("", nil)
		w.member("none")
		w.member("own", func(s *specs.Spec) { rig.InPod(s, podID, false) })
		w.member("another's", func(s *specs.Spec) { rig.InPod(s, "another", false) })
		w.member("a sandbox's", func(s *specs.Spec) { rig.InPod(s, "another", true) })
		if n := len(w.Driver.Machines()); n != 1 {
			t.Errorf("%d machines", n)
		}
		if err := w.stop(context.Background()); err != nil {
			t.Errorf("StopSandbox = %v", err)
		}
		w.expectEnded(0)
		w.expectDeletable("none")
		if err := w.createContainer("late"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// A container that comes before its sandbox runs is told so.
func TestMemberBeforeStart(t *testing.T) {
	bubble(t, func(w *world) {
		w.create()
		if err := w.createContainer("c"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("Create = %v", err)
		}
	})
}

// A member has the network of its sandbox; the host's only if it asks for it.
func TestMemberNetwork(t *testing.T) {
	const path = "/run/netns/s"
	described := func(network ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: network}}
	}
	for name, c := range map[string]struct {
		path                    string
		spec                    *specs.Spec
		host                    bool
		asksForNew, asksForHost string
	}{
		"a namespace":         {path, nil, false, api.NetworkPath(), api.NetworkPath()},
		"nothing":             {"", nil, true, "", api.AgentNetworkPath()},
		"a new one by spec":   {"", described(specs.LinuxNamespace{Type: specs.NetworkNamespace}), false, api.NetworkPath(), api.NetworkPath()},
		"a namespace by spec": {"", described(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path}), false, api.NetworkPath(), api.NetworkPath()},
		"the host's by spec":  {"", described(), true, "", api.AgentNetworkPath()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.runOther(c.path, c.spec)
				if host := w.Machine().Config().Network.Host; host != c.host {
					t.Errorf("the VM has the host's network: %v", host)
				}
				if got := place(w.member("new"), specs.NetworkNamespace); got != c.asksForNew {
					t.Errorf("a new one is %q", got)
				}
				if got := place(w.member("host", without(specs.NetworkNamespace)), specs.NetworkNamespace); got != c.asksForHost {
					t.Errorf("the host's is %q", got)
				}
				stand := fmt.Sprintf("/proc/%d/ns/net", w.Placeholders()[0].Pid())
				if got := place(w.member("pod", at(specs.NetworkNamespace, stand)), specs.NetworkNamespace); got != c.asksForHost {
					t.Errorf("the sandbox's is %q", got)
				}
				err := w.createContainer("other", at(specs.NetworkNamespace, "/run/netns/other"))
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "/run/netns/other, which is not that of its sandbox") {
					t.Errorf("another sandbox's: %v", err)
				}
			})
		})
	}
}

// Shared memory is shared by those that are in the sandbox's IPC namespace, and by no others.
func TestMemberMemory(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		stand := w.Placeholders()[0].Pid()
		shares := w.member("shares", withMemory, at(specs.IPCNamespace, fmt.Sprintf("/proc/%d/ns/ipc", stand)))
		if place(shares, specs.IPCNamespace) == "" || memory(shares) != api.PodPath(api.PodSharedMemory) {
			t.Errorf("in the sandbox's IPC namespace %q: /dev/shm is %q", place(shares, specs.IPCNamespace), memory(shares))
		}
		if own := w.member("own", withMemory); place(own, specs.IPCNamespace) != "" || memory(own) != "shm" {
			t.Errorf("in one of its own %q: /dev/shm is %q", place(own, specs.IPCNamespace), memory(own))
		}
		// One that joins a container, and not the sandbox, has what it mounts, as with runc.
		joins := w.member("joins", withMemory, at(specs.IPCNamespace, fmt.Sprintf("/proc/%d/ns/ipc", w.Placeholders()[2].Pid())))
		if place(joins, specs.IPCNamespace) == "" || memory(joins) != "shm" {
			t.Errorf("in a container's %q: /dev/shm is %q", place(joins, specs.IPCNamespace), memory(joins))
		}
	})
}

// Where the administrator allows it, the sandbox's namespaces stand for the host's, asked for
// by leaving them out or by the path of a process that is in them.
func TestMemberHostNamespaces(t *testing.T) {
	kinds := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace}
	asks := map[string]func(*specs.Spec){"left out": without(kinds...), "by path": func(s *specs.Spec) {
		for _, kind := range kinds {
			at(kind, fmt.Sprintf("/proc/%d/ns/%s", os.Getpid(), kind))(s)
		}
	}}
	bubble(t, func(w *world) {
		w.run()
		for name, ask := range asks {
			err := w.createContainer("c", ask)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `compat.host_namespaces = "vm"`) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	bubble(t, func(w *world) {
		w.Config = "[compat]\nhost_namespaces = \"vm\"\n"
		if err := config.SaveOptions(w.bundle, rig.Options(w.Rig)); err != nil {
			t.Fatal(err)
		}
		w.run()
		holder := fmt.Sprint("/proc/", w.Pod.Holder().Guest)
		for name, ask := range asks {
			got := w.member(strings.ReplaceAll(name, " ", "-"), ask, withMemory)
			for _, kind := range kinds {
				if path := place(got, kind); path != fmt.Sprintf("%s/ns/%s", holder, kind) {
					t.Errorf("%s: the %s namespace is %q", name, kind, path)
				}
			}
			if memory(got) != api.PodPath(api.PodSharedMemory) {
				t.Errorf("%s: /dev/shm is %q", name, memory(got))
			}
		}
	})
}
