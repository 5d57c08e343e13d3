package e2e

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// guestFiles are the limits that the guest's kernel has: files that can be written, of the
// controllers of control groups of version 2. If its kernel gets others or loses some, the
// rules of shim/spec/resources.go have to follow. Of huge pages a processor may have more.
// What limits swap and the use of devices is for what a privileged container makes of them in
// the guest: a spec's limits are about the host's devices, and there is no swap.
const guestFiles = `cgroup.max.depth cgroup.max.descendants
cpu.idle cpu.max cpu.max.burst cpu.weight cpu.weight.nice
cpuset.cpus cpuset.cpus.exclusive cpuset.cpus.partition cpuset.mems
hugetlb.2MB.max hugetlb.2MB.rsvd.max io.max io.weight
memory.high memory.low memory.max memory.min memory.oom.group
memory.swap.high memory.swap.max memory.swap.peak pids.max`

// everyLimit asks for all that there is, in the terms of both versions.
func everyLimit(disk specs.LinuxBlockIODevice) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: new(int64(64 << 20)), Reservation: new(int64(32 << 20)), Swap: new(int64(128 << 20)),
			Swappiness: new(uint64(10)), DisableOOMKiller: new(true), UseHierarchy: new(true), KernelTCP: new(int64(1 << 20)),
		},
		CPU: &specs.LinuxCPU{
			Shares: new(uint64(512)), Quota: new(int64(150_000)), Period: new(uint64(100_000)), Burst: new(uint64(1000)),
			RealtimeRuntime: new(int64(1000)), RealtimePeriod: new(uint64(100_000)), Cpus: "0",
		},
		Pids:           &specs.LinuxPids{Limit: new(int64(50))},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB"}, {Pagesize: "64KB", Limit: 1 << 16}},
		Network:        &specs.LinuxNetwork{ClassID: new(uint32(5))},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: new(uint32(1))}},
		BlockIO: &specs.LinuxBlockIO{
			Weight:                 new(uint16(300)),
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 1 << 20}},
		},
		Unified: map[string]string{
			"memory.min": "1048576", "memory.high": "60000000", "memory.oom.group": "1", "memory.swap.max": "0",
			"cgroup.max.depth": "5", "cgroup.max.descendants": "50", "cpu.weight": "30", "hugetlb.2MB.rsvd.max": "2097152",
			"rdma.max": "mlx5_1 hca_handle=1",
		},
	}
}

// hostDisk is one of the host's.
func hostDisk(t *testing.T) (disk specs.LinuxBlockIODevice) {
	t.Helper()
	found, _ := filepath.Glob("/sys/block/*/dev")
	for _, path := range found {
		if _, err := fmt.Sscanf(content(t, path), "%d:%d", &disk.Major, &disk.Minor); err == nil {
			return disk
		}
	}
	t.Fatal("the host has no disk")
	return disk
}

// A privileged container with every limit that there is runs. Each is kept by the guest or by
// the VM's group on the host, or told in the log.
func TestResourceLimits(t *testing.T) {
	nothingLeft(t)
	disk, logged := hostDisk(t), len(host.Log())
	withLimits := func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		devices := s.Linux.Resources.Devices
		s.Linux.Resources = everyLimit(disk)
		s.Linux.Resources.Devices = devices
		s.Linux.Namespaces = withoutCgroup(s.Linux.Namespaces)
		return nil
	}
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed, withLimits,
		oci.WithMounts([]specs.Mount{{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"rw"}}}),
	}}, sleeper...)

	t.Run("the kernel's files", func(t *testing.T) {
		got := c.must("cd /sys/fs/cgroup && find . -maxdepth 1 -type f -perm -200 | sed s,./,, | grep -v " +
			"-e ^hugetlb.1GB -e ^cgroup.[^m] -e ^memory.reclaim -e ^memory.peak -e pressure -e ^pids.peak | sort")
		if want := strings.Join(strings.Fields(guestFiles), "\n"); got != want {
			t.Errorf("the guest's kernel has\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("in the guest", func(t *testing.T) {
		files := map[string]string{
			"memory.max": "67108864", "memory.low": "33554432", "memory.min": "1048576", "memory.high": "59998208", "memory.oom.group": "1",
			"cpu.weight": "30", "cpu.max": "150000 100000", "cpu.max.burst": "1000", "pids.max": "50",
			"hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "2097152", "cgroup.max.depth": "5", "cgroup.max.descendants": "50",
		}
		var names, want []string
		for _, file := range slices.Sorted(maps.Keys(files)) {
			names, want = append(names, file), append(want, file+":"+files[file])
		}
		if got := c.must("cd /sys/fs/cgroup && grep . " + strings.Join(names, " ")); got != strings.Join(want, "\n") {
			t.Errorf("the limits are\n%s", got)
		}
	})
	group := "/" + harness.Namespace + "/" + c.ID()
	number := fmt.Sprintf("%d:%d", disk.Major, disk.Minor)
	t.Run("on the host", func(t *testing.T) {
		wantLimit(t, group, "io.max", number+" rbps=max wbps=1048576 riops=max wiops=max", "blkio/blkio.throttle.write_bps_device", number+" 1048576")
		wantLimit(t, group, "cpuset.cpus", "0", "cpuset/cpuset.cpus", "0")
	})
	t.Run("in the log", func(t *testing.T) {
		log := host.Log()[logged:]
		if count := strings.Count(log, "goes without what it asks for here"); count != 1 {
			t.Errorf("told %d times", count)
		}
		for _, name := range []string{
			"memory.swappiness", "memory.disableOOMKiller", "memory.kernelTCP", "cpu.realtimeRuntime", "cpu.realtimePeriod",
			"hugepageLimits of 64KB", "network.classID", "rdma", "unified rdma.max", "devices of the host",
		} {
			if !strings.Contains(log, name+" (") && !strings.Contains(log, name+", which") {
				t.Errorf("nothing is told of %s", name)
			}
		}
	})
	t.Run("an update", func(t *testing.T) {
		err := c.Update(c.ctx, client.WithResources(&specs.LinuxResources{
			Memory:  &specs.LinuxMemory{Limit: new(int64(48 << 20)), Swap: new(int64(96 << 20))},
			BlockIO: &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 2 << 20}}},
			Unified: map[string]string{"pids.max": "40", "memory.swap.max": "5"},
		}))
		if err != nil {
			t.Error(err)
		}
		if got := c.must("cd /sys/fs/cgroup && echo $(cat memory.max pids.max)"); got != "50331648 40" {
			t.Errorf("memory and tasks: %s", got)
		}
		wantLimit(t, group, "io.max", number+" rbps=max wbps=2097152 riops=max wiops=max", "blkio/blkio.throttle.write_bps_device", number+" 2097152")
	})
	t.Run("privileged", func(t *testing.T) {
		if got := c.must("find /dev -type b ! -name 'loop*'"); got != "" {
			t.Errorf("disks of the host: %s", got)
		}
		c.must("echo x >/dev/null && head -c 1 /dev/zero | wc -c && mkdir /mine && mount -t tmpfs x /mine")
		c.must("mknod /mine/null c 1 3 && echo x >/mine/null")
	})
	t.Run("its own group", func(t *testing.T) {
		if got := c.must("cat /proc/self/cgroup"); got != "0::/" {
			t.Errorf("the container sees itself in %s", got)
		}
		c.must("mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below")
	})
}

// withoutCgroup is what Docker asks for on a host of version 1.
func withoutCgroup(namespaces []specs.LinuxNamespace) (rest []specs.LinuxNamespace) {
	for _, namespace := range namespaces {
		if namespace.Type != specs.CgroupNamespace {
			rest = append(rest, namespace)
		}
	}
	return rest
}
