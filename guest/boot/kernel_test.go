package boot

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// A kernel that lacks options is told by all of their names.
func TestMissing(t *testing.T) {
	whole := map[string]string{
		"proc/filesystems":                 "nodev\tsysfs\nnodev\ttmpfs\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\tmqueue\nnodev\tcgroup2\nnodev\tvirtiofs\nnodev\toverlay\n\terofs\n",
		"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
		"proc/self/ns/user":                "", "proc/self/ns/pid": "", "proc/self/ns/net": "", "proc/self/ns/ipc": "", "proc/self/ns/uts": "",
		"proc/sys/kernel/seccomp/actions_avail": "kill_process\n", "proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
	}
	for name, c := range map[string]struct {
		change func(files map[string]string)
		want   []string
	}{
		"nothing": {func(map[string]string) {}, nil},
		"two file systems": {func(f map[string]string) {
			f["proc/filesystems"] = strings.ReplaceAll(strings.ReplaceAll(f["proc/filesystems"], "virtiofs", ""), "overlay", "overlayx")
		}, []string{"CONFIG_VIRTIO_FS", "CONFIG_OVERLAY_FS"}},
		"a controller": {func(f map[string]string) {
			f["sys/fs/cgroup/cgroup.controllers"] = strings.ReplaceAll(f["sys/fs/cgroup/cgroup.controllers"], "memory", "x")
		}, []string{"CONFIG_MEMCG"}},
		"groups not mounted yet": {func(f map[string]string) { delete(f, "sys/fs/cgroup/cgroup.controllers") }, nil},
		"a namespace, seccomp": {func(f map[string]string) {
			delete(f, "proc/self/ns/user")
			delete(f, "proc/sys/kernel/seccomp/actions_avail")
		}, []string{"CONFIG_USER_NS", "CONFIG_SECCOMP_FILTER"}},
		"control groups at all": {func(f map[string]string) {
			delete(f, "sys/fs/cgroup/cgroup.controllers")
			f["proc/filesystems"] = strings.ReplaceAll(f["proc/filesystems"], "cgroup2", "")
		}, []string{"CONFIG_CGROUPS", "CONFIG_MEMCG", "CONFIG_CGROUP_SCHED", "CONFIG_CPUSETS", "CONFIG_BLK_CGROUP", "CONFIG_CGROUP_PIDS"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := make(map[string]string)
			for name, content := range whole {
				files[name] = content
			}
			c.change(files)
			root := make(fstest.MapFS)
			for name, content := range files {
				root[name] = &fstest.MapFile{Data: []byte(content)}
			}
			got, err := missing(root)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("missing %v, %v; want %v", got, err, c.want)
			}
		})
	}
	if _, err := missing(fstest.MapFS{}); err == nil {
		t.Error("without /proc nothing is missing")
	}
}
