package pod

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// TestPod: a pod's containers share its namespaces, its memory and its name.
func TestPod(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		p := startPod(t, handler, func(config *cri.PodSandboxConfig) {
			config.Linux.SecurityContext.Privileged = true // a looks at the guest
			config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
		})
		a := p.start("a", func(config *cri.ContainerConfig) { config.Linux.SecurityContext.Privileged = true }, sleeper...)
		b := p.start("b", nil, sleeper...)
		a.want("pod", "hostname")
		b.want("pod", "cat /etc/hostname")
		a.want("search test.svc\nnameserver 10.96.0.10\noptions ndots:5", "cat /etc/resolv.conf")
		b.must("grep localhost /etc/hosts")
		for _, kind := range []string{"ipc", "uts", "net"} {
			script := "readlink /proc/self/ns/" + kind
			if a.must(script) != b.must(script) {
				t.Errorf("%s: not shared", kind)
			}
		}
		for _, kind := range []string{"pid", "mnt"} {
			script := "readlink /proc/self/ns/" + kind
			if a.must(script) == b.must(script) {
				t.Errorf("%s: shared", kind)
			}
		}
		a.want("1", "cat /proc/sys/kernel/shm_rmid_forced")
		b.want("80", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
		a.must("echo shared > /dev/shm/file")
		b.want("shared", "cat /dev/shm/file")
		b.want("65536", "df -k /dev/shm | awk 'NR == 2 { print $2 }'")
		t.Run("a container goes while another runs", func(t *testing.T) { testRestarts(t, p, a) })
		t.Run("the pod's status", func(t *testing.T) { testStatus(t, p) })
	})
}

// left is what containers could leave in the guest, as far as one that owns it sees:
// control groups, file systems, zombies.
func (c *container) left() string {
	c.t.Helper()
	return c.must("ls -d /sys/fs/cgroup/*/ | wc -l; grep -c . /proc/self/mountinfo; mkdir -p /fuse && mount -t fusectl none /fuse && ls /fuse | wc -l; umount /fuse")
}

// testRestarts starts and removes a container again and again, has one killed for its memory
// and deletes one, beside others that run on.
func testRestarts(t *testing.T, p *pod, other *container) {
	other.must("echo $$ > /tmp/before")
	deleted := p.start("deleted", nil, sleeper...)
	var before string
	for i := range harness.Many(5, 20) {
		c := p.start("restarted", nil, "sh", "-c", fmt.Sprintf("echo round %d; exit %d", i, i))
		if status := c.exited(); int(status.ExitCode) != i {
			t.Errorf("round %d: exit code %d, %s", i, status.ExitCode, status.Message)
		}
		if log := c.log(); log != fmt.Sprintf("round %d\n", i) {
			t.Errorf("round %d: log %q", i, log)
		}
		c.delete()
		switch i {
		case 0:
			deleted.stop()
			deleted.delete()
			before = other.left()
		case 2:
			greedy := p.start("greedy", limited(32*mib), "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
			if status := greedy.exited(); status.Reason != "OOMKilled" {
				t.Errorf("out of memory: %s", status.Reason)
			}
			greedy.delete()
		}
	}
	if after := other.left(); after != before {
		t.Errorf("in the guest are %q, after one restart were %q", after, before)
	}
	if left := p.given(); len(left) != p.roots() {
		t.Errorf("%d containers, and the pod is given %v", p.roots(), left)
	}
	other.must("test -f /tmp/before")
}

// testStatus: what the kubelet sees.
func testStatus(t *testing.T, p *pod) {
	response, err := runtime.PodSandboxStatus(call(t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	status := response.Status
	if status.State != cri.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(status.Network.GetIp(), "10.98.") || status.CreatedAt == 0 {
		t.Errorf("status %v", status)
	}
	linux, err := harness.AskAgain(t.Logf, "stats of the pod", func() (*cri.LinuxPodSandboxStats, bool, error) {
		stats, err := runtime.PodSandboxStats(call(t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
		linux := stats.GetStats().GetLinux()
		// Those of a container that its guest had not in time are empty.
		late := slices.ContainsFunc(linux.GetContainers(), func(c *cri.ContainerStats) bool { return c.Memory.GetUsageBytes().GetValue() == 0 })
		return linux, err == nil && late, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if used := linux.Memory.GetWorkingSetBytes().GetValue(); used < 64<<20 {
		t.Errorf("the pod uses %d bytes: less than any VM", used)
	}
	if linux.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 || linux.Network.GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("stats %v", linux)
	}
	for _, c := range linux.Containers {
		// All that a small container uses may be files that nobody has read lately: its working set is 0 then.
		used, working := c.Memory.GetUsageBytes().GetValue(), c.Memory.GetWorkingSetBytes().GetValue()
		if used == 0 || working > 64<<20 {
			t.Errorf("container %s uses %d bytes, of which it works with %d", c.Attributes.Metadata.Name, used, working)
		}
	}
}
