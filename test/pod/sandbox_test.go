package pod

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// withVMForHost is the runtime with namespaces of the VM for the host's.
func withVMForHost() *runtimeoptions.Options {
	return &runtimeoptions.Options{ConfigPath: host.VMForHost()}
}

// newSandbox starts a sandbox as a client does that is not the CRI plugin; the test's end
// shuts it down.
func newSandbox(t *testing.T) client.Sandbox {
	t.Helper()
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	id := fmt.Sprintf("sandbox-%d", time.Now().UnixNano())
	sandbox, err := host.Client.NewSandbox(ctx, id, client.WithSandboxRuntime(harness.Runtime, withVMForHost()),
		client.WithSandboxSpec(&oci.Spec{Hostname: "described"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		if err := sandbox.Shutdown(ctx); err != nil {
			t.Errorf("shutting the sandbox down: %v", err)
		}
	})
	if err := sandbox.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// task is a container that a client of containerd has made.
type task struct {
	client.Task
	t         *testing.T
	ctx       context.Context
	container client.Container
}

// startTask starts a container that sleeps, with the options of its client; the test's end
// deletes it.
func startTask(t *testing.T, options []client.NewContainerOpts, change ...oci.SpecOpts) *task {
	t.Helper()
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("task-%d", time.Now().UnixNano())
	spec := append([]oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs(sleeper...)}, change...)
	container, err := host.Client.NewContainer(ctx, id, append([]client.NewContainerOpts{
		client.WithNewSnapshot(id, image), client.WithNewSpec(spec...),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Errorf("deleting container %s: %v", id, err)
		}
	})
	created, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		if _, err := created.Delete(ctx, client.WithProcessKill); err != nil {
			t.Errorf("deleting task %s: %v", id, err)
		}
	})
	if err := created.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return &task{created, t, ctx, container}
}

// exec runs a shell script in the container and returns what it printed.
func (k *task) exec(script string) string {
	k.t.Helper()
	spec, err := k.container.Spec(k.ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	process := *spec.Process
	process.Args = []string{"sh", "-c", script}
	var out harness.Buffer
	created, err := k.Exec(k.ctx, fmt.Sprintf("exec%d", time.Now().UnixNano()), &process, cio.NewCreator(cio.WithFIFODir(k.t.TempDir()), cio.WithStreams(bytes.NewReader(nil), &out, &out)))
	if err != nil {
		k.t.Fatal(err)
	}
	exit, err := created.Wait(k.ctx)
	if err == nil {
		err = created.Start(k.ctx)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	<-exit
	if _, err := created.Delete(k.ctx); err != nil {
		k.t.Error(err)
	}
	return strings.TrimSpace(out.String())
}

// TestClientSandbox: a client without annotations has containers in a sandbox of its own.
func TestClientSandbox(t *testing.T) {
	if host.VMHandlers()[len(host.VMHandlers())-1] != harness.SandboxVMHandler {
		return // containerd 1.7's client is another
	}
	nothingLeft(t)
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	sandbox := newSandbox(t)
	status, err := host.Client.SandboxController("shim").Status(ctx, sandbox.ID(), true)
	if err != nil || status.State != "SANDBOX_READY" || status.Info["state"] != status.State || status.Info["pid"] != fmt.Sprint(status.Pid) || status.Pid == 0 {
		t.Errorf("status %+v, %v", status, err)
	}
	exited, err := sandbox.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("members", func(t *testing.T) { testMembers(t, sandbox, status.Pid) })
	for range 2 {
		if err := sandbox.Stop(ctx); err != nil {
			t.Errorf("stopping the sandbox: %v", err)
		}
	}
	if code, _, err := (<-exited).Result(); err != nil || code != 0 {
		t.Errorf("the sandbox has ended with %d, %v", code, err)
	}
}

func testMembers(t *testing.T, sandbox client.Sandbox, pid uint32) {
	of := []client.NewContainerOpts{client.WithRuntime(harness.Runtime, nil), client.WithSandbox(sandbox.ID())}
	ipc := oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", pid)})
	var ofHost []oci.SpecOpts
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace} {
		ofHost = append(ofHost, oci.WithHostNamespace(kind))
	}
	path := filepath.Join(t.TempDir(), "socket")
	greet(t, path)
	socket := oci.WithMounts([]specs.Mount{
		{Type: "uds", Source: path, Destination: "/run/host.sock"},
		{Type: "bind", Source: filepath.Join(host.Output, "tools"), Destination: "/tools", Options: []string{"rbind", "ro"}},
	})

	plain, shares := startTask(t, of), startTask(t, of, ipc, socket)
	first, second := startTask(t, of, ofHost...), startTask(t, of, ofHost...)
	all := []namespacesOf{placesOf(plain.exec), placesOf(shares.exec), placesOf(first.exec), placesOf(second.exec)}
	for _, other := range all[1:] {
		all[0].expect(t, other, true, "vm")
	}
	all[0].expect(t, all[2], false, "pid", "ipc", "uts", "net")
	all[2].expect(t, all[3], true, "pid", "ipc", "uts", "net")
	all[1].expect(t, all[2], true, "ipc") // the sandbox's is what stands for the host's
	if name := first.exec("hostname"); name != "described" {
		t.Errorf("the sandbox is called %q", name)
	}
	if interfaces := plain.exec("ls /sys/class/net"); interfaces != "lo" {
		t.Errorf("a network of its own has %q", interfaces)
	}
	first.exec("echo shared > /dev/shm/file")
	if content := shares.exec("cat /dev/shm/file"); content != "shared" {
		t.Errorf("/dev/shm in one IPC namespace: %q", content)
	}
	if content := plain.exec("ls /dev/shm"); content != "" {
		t.Errorf("/dev/shm of one with an IPC namespace of its own: %q", content)
	}
	if answer := shares.exec("/tools/probe connect /run/host.sock hello"); answer != "greetings" {
		t.Errorf("the socket answers %q", answer)
	}
	expectNoAgent(t, second.exec)
}

// greet serves a socket that says something to everybody.
func greet(t *testing.T, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "greetings")
			conn.Close()
		}
	}()
}

// namespacesOf are a container's, by their kinds, and its VM.
type namespacesOf map[string]string

func placesOf(exec func(string) string) namespacesOf {
	places := namespacesOf{}
	lines := exec("echo vm $(cat /proc/sys/kernel/random/boot_id); for kind in pid ipc uts net; do echo $kind $(readlink /proc/self/ns/$kind); done")
	for line := range strings.Lines(lines) {
		kind, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		places[kind] = id
	}
	return places
}

// expect compares with those of another container.
func (n namespacesOf) expect(t *testing.T, other namespacesOf, same bool, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		if n[kind] == "" || (n[kind] == other[kind]) != same {
			t.Errorf("%s: %q and %q", kind, n[kind], other[kind])
		}
	}
}

// expectNoAgent looks for the guest's agent from a container in the PID namespace that stands
// for the host's: what is to be seen there is a process without rights, with nothing in its
// root, and other containers.
func expectNoAgent(t *testing.T, exec func(string) string) {
	t.Helper()
	if init := exec("tr '\\0' ' ' < /proc/1/cmdline"); !strings.Contains(init, "hold") {
		t.Errorf("the init is %q", init)
	}
	if root := exec("ls -A /proc/1/root/ 2>/dev/null; true"); root != "" {
		t.Errorf("the init's root has %q", root)
	}
	if agents := exec("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c msb-[a]gent"); agents != "1" {
		t.Errorf("%s processes are the agent's", agents) // the init is its program
	}
	if alive := exec("kill -9 1; kill -15 1; kill -0 1 && echo alive"); alive != "alive" {
		t.Errorf("killing the init: %q", alive)
	}
}

// TestHostNamespaces: where the administrator allows it, namespaces of the VM stand for those
// of the host, for a pod and for a container by itself.
func TestHostNamespaces(t *testing.T) {
	perHandlerOf(t, host.VMHandlers(), func(t *testing.T, handler string) {
		p := startPod(t, handler, namespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}))
		a, b := p.start("a", nil, sleeper...), p.start("b", nil, sleeper...)
		placesOf(a.must).expect(t, placesOf(b.must), true, "vm", "pid", "ipc", "uts", "net")
		a.must("echo shared > /dev/shm/file")
		b.want("shared", "cat /dev/shm/file")
		expectNoAgent(t, a.must)
	})
	t.Run("container", func(t *testing.T) {
		nothingLeft(t)
		k := startTask(t, []client.NewContainerOpts{client.WithRuntime(harness.Runtime, withVMForHost())},
			oci.WithHostNamespace(specs.PIDNamespace), oci.WithHostNamespace(specs.IPCNamespace), oci.WithHostNamespace(specs.UTSNamespace))
		expectNoAgent(t, k.exec)
		if name := k.exec("hostname"); name == "msb" || name == "" {
			t.Errorf("it is called %q, and not as the host", name)
		}
	})
}
