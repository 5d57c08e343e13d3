package pod

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// limited gives a container a memory limit in bytes.
func limited(memory int64) func(*cri.ContainerConfig) {
	return func(config *cri.ContainerConfig) { config.Linux.Resources.MemoryLimitInBytes = memory }
}

const mib = 1 << 20

// TestLimits: a pod's VM is as big as the kubelet says, its containers' limits hold in it
// and can be changed up to its size; who uses more is killed, alone.
func TestLimits(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		p := startPod(t, handler, func(config *cri.PodSandboxConfig) {
			config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 300 * mib, CpuQuota: 100_000, CpuPeriod: 100_000}
		})
		steady := p.start("steady", nil, sleeper...)
		if total, _ := strconv.Atoi(steady.must("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")); total < 300 || total > 430 {
			t.Errorf("the VM has %d MiB", total)
		}
		greedy := p.start("greedy", limited(32*mib), sleeper...)
		greedy.want(fmt.Sprint(32*mib), "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/memory.max")
		update := func(memory int64) error {
			_, err := runtime.UpdateContainerResources(call(t), &cri.UpdateContainerResourcesRequest{
				ContainerId: greedy.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: memory},
			})
			return err
		}
		if err := update(48 * mib); err != nil {
			t.Error(err)
		}
		if err := update(1024 * mib); err == nil || !strings.Contains(err.Error(), "cannot grow") {
			t.Errorf("more than the VM has: %v", err)
		}
		_, _ = runtime.ExecSync(call(t), &cri.ExecSyncRequest{ContainerId: greedy.id, Cmd: []string{"true"}})
		hog := p.start("hog", limited(32*mib), "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
		if status := hog.exited(); status.ExitCode != 137 || status.Reason != "OOMKilled" {
			t.Errorf("out of memory: exit code %d, reason %s", status.ExitCode, status.Reason)
		}
		steady.want("still here", "echo still here")
		greedy.stop()
		if status := greedy.exited(); status.ExitCode != 0 && status.ExitCode != 143 {
			t.Errorf("stopped: exit code %d", status.ExitCode)
		}
	})
}

// TestSharedPID: containers of a pod with one PID namespace see and signal each other.
func TestSharedPID(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		p := startPod(t, handler, func(config *cri.PodSandboxConfig) {
			config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
			config.Linux.SecurityContext.Privileged = true // one of its containers is
		})
		a := p.start("a", nil, "sleep", "1000")
		b := p.start("b", nil, sleeper...)
		if a.must("readlink /proc/self/ns/pid") != b.must("readlink /proc/self/ns/pid") {
			t.Error("the PID namespace is not shared")
		}
		if init := b.must("tr '\\0' ' ' < /proc/1/cmdline"); !strings.Contains(init, "tail -f") && !strings.Contains(init, "hold") {
			t.Errorf("the init of the pod is %q", init)
		}
		// Nothing of the agent is to be had by its init.
		if output, _ := b.exec("ls /proc/1/root/sbin 2>&1"); strings.Contains(output, "msb-agent") {
			t.Errorf("the agent's root is in reach of a container: %s", output)
		}
		p.start("c", func(config *cri.ContainerConfig) { config.Linux.SecurityContext.Privileged = true }, sleeper...).
			want("", "nsenter -t 1 -m /sbin/crun --version 2>/dev/null || true") // the agent's root
		b.must("kill -TERM 1; kill -KILL 1; sleep 1; kill -0 1 || true")
		b.must("for i in 1 2 3; do sh -c 'sleep 0 & exit'; done; until test $(grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l) -lt 4; do sleep 0.1; done")
		b.must("kill -KILL " + sleepOf("1000")) // not those that come and go with b's init
		if status := a.exited(); status.ExitCode != 137 {
			t.Errorf("killed by its neighbour: exit code %d", status.ExitCode)
		}
		b.want("fine", "echo fine")
		t.Run("a container goes whose files another holds", func(t *testing.T) { testHeld(t, p) })
	})
}

// sleepOf is for a shell the process that sleeps so many seconds.
func sleepOf(seconds string) string {
	return "$(for pid in $(pidof sleep); do if grep -q " + seconds + " /proc/$pid/cmdline 2>/dev/null; then echo $pid; fi; done)"
}

// testHeld: a container with all rights holds another's root file system. That one goes
// all the same, from the host's mounts and from containerd's snapshots.
func testHeld(t *testing.T, p *pod) {
	victim := p.start("victim", nil, "sh", "-c", "echo secret > /held; exec sleep 4321")
	hostile := p.start("hostile", func(config *cri.ContainerConfig) { config.Linux.SecurityContext.Privileged = true }, sleeper...)
	hostile.want("secret", "victim="+sleepOf("4321")+`
		cat /proc/$victim/root/held
		(cd /proc/$victim/root/bin && exec sleep 1000 < ../held > /dev/null 2>&1) &
		until test -n "`+sleepOf("1000")+`"; do :; done`)
	victim.stop()
	victim.delete()
	if left := p.given(); len(left) != p.roots() {
		t.Errorf("%d containers, and the pod is given %v", p.roots(), left)
	}
	snapshots, stderr, code := host.Ctr("--namespace", harness.KubernetesNamespace, "snapshot", "ls")
	if code != 0 || strings.Contains(snapshots, victim.id) {
		t.Errorf("the snapshot of the removed container is still there: %s%s", snapshots, stderr)
	}
	hostile.want("secret", "cat /proc/"+sleepOf("1000")+"/fd/0")
	hostile.stop()
	hostile.delete()
}

// TestPodKilled: whatever of a pod is killed, the kubelet learns of it and can remove
// the pod.
func TestPodKilled(t *testing.T) {
	for name, victim := range map[string]func(p *pod) int{
		"VMM":         func(p *pod) int { return p.child(host.VMM()) },
		"shim":        func(p *pod) int { return p.shim() },
		"placeholder": func(p *pod) int { return p.pid() },
	} {
		t.Run(name, func(t *testing.T) {
			perHandler(t, func(t *testing.T, handler string) {
				p := startPod(t, handler, nil)
				var containers []*container
				for _, name := range []string{"a", "b", "c", "d", "e"}[:harness.Many(2, 5)] {
					containers = append(containers, p.start(name, nil, sleeper...))
				}
				if err := unix.Kill(victim(p), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if name == "placeholder" && handler == harness.PauseHandler {
					p.notReady() // the sandbox container's; the others run on until the pod is stopped
					return
				}
				for _, c := range containers {
					if status := c.exited(); status.ExitCode != 137 && status.ExitCode != 255 {
						t.Errorf("exit code %d", status.ExitCode)
					}
				}
				p.notReady()
				if _, err := p.create("late", nil, sleeper...); err == nil || !gone.MatchString(err.Error()) {
					t.Errorf("a container for a sandbox that is gone: %v", err)
				}
			})
		})
	}
}

// gone is what the CRI plugin says of a sandbox that is: that of 2.x, and that of 1.7.
var gone = regexp.MustCompile("is not running|no running task found")

// notReady waits until the CRI plugin says that the sandbox has ended, in its answer about
// it, for which it asks, and in its list, which is what it knows.
func (p *pod) notReady() {
	p.t.Helper()
	if !harness.Eventually(func() bool {
		response, err := runtime.PodSandboxStatus(call(p.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			p.t.Fatal(err)
		}
		list, err := runtime.ListPodSandbox(call(p.t), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: p.id}})
		if err != nil || len(list.Items) != 1 {
			p.t.Fatalf("%v, %v", list, err)
		}
		return response.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY && list.Items[0].State == cri.PodSandboxState_SANDBOX_NOTREADY
	}) {
		p.t.Fatal("the pod is still ready")
	}
}

// pid is the process by whose namespaces the host knows the pod.
func (p *pod) pid() int {
	p.t.Helper()
	response, err := runtime.PodSandboxStatus(call(p.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		p.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(response.Info["info"]), &info); err != nil || info.Pid == 0 {
		p.t.Fatalf("info %q: %v", response.Info["info"], err)
	}
	return info.Pid
}

// TestPorts: containerd forwards ports by connecting to loopback in the pod's network
// namespace; that reaches the pod's containers, whatever the port.
func TestPorts(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		p := startPod(t, handler, nil)
		c := p.start("server", nil, "sh", "-c", "mkdir /www; echo served > /www/file; exec httpd -f -p 127.0.0.1:8080 -h /www")
		c.must("until wget -q -O /dev/null http://127.0.0.1:8080/file; do sleep 0.3; done")
		namespace := fmt.Sprintf("/proc/%d/ns/net", p.pid())
		get := func(port int) (string, error) {
			var answer []byte
			err := thread.InNetworkAt(namespace, func() error {
				conn, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), harness.Patience)
				if err != nil {
					return err
				}
				defer conn.Close()
				fmt.Fprintf(conn, "GET /file HTTP/1.0\r\n\r\n")
				answer, err = io.ReadAll(conn)
				return err
			})
			return string(answer), err
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if answer, err := get(8080); err != nil || !strings.HasSuffix(answer, "served\n") {
					t.Errorf("%q, %v", answer, err)
				}
			})
		}
		all.Wait()
		if answer, err := get(8081); err == nil && answer != "" {
			t.Errorf("a port that nobody listens on answers %q", answer)
		}
	})
}

// TestContainerdRestart: a pod runs on while containerd is away, and containerd knows it
// again.
func TestContainerdRestart(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		p := startPod(t, handler, nil)
		a := p.start("a", nil, "sh", "-c", "trap 'exit 0' TERM; while :; do echo >>/ticks; sleep 1; done")
		if err := host.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := harness.AwaitRuntime(runtime); err != nil {
			t.Fatal(err)
		}
		before := a.must("wc -l </ticks")
		a.must("until [ $(wc -l </ticks) -gt " + before + " ]; do sleep 1; done")
		b := p.start("b", nil, sleeper...)
		b.want("pod", "hostname")
		response, err := runtime.PodSandboxStatus(call(t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil || response.Status.State != cri.PodSandboxState_SANDBOX_READY {
			t.Errorf("the pod's status: %v, %v", response, err)
		}
		a.stop()
		if status := a.exited(); status.ExitCode != 0 {
			t.Errorf("exit code %d", status.ExitCode)
		}
	})
}
