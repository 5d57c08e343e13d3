package e2e

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A beside is a configuration that is tried under both runtimes.
type beside struct {
	name   string
	change func(*specs.Spec)
	script string // empty for what both refuse: of those only that they do is compared
}

const (
	// stateOf is what a process is started as. The nice value and the policy of scheduling are of
	// proc_pid_stat(5).
	stateOf = "grep -E '^(Uid|Gid|Groups|Cap|NoNew)' /proc/self/status; cat /proc/self/personality /proc/self/oom_score_adj; " +
		"ionice -p $$; cut -d' ' -f 19,40,41 /proc/$$/stat; umask; uname -m; ulimit -n"
	// capabilitiesOf are those without which of all there are in the bounding set: a host may have
	// taken some from its runc.
	capabilitiesOf = "awk '/^Cap/ { print $1, $2 == bound ? \"all\" : $2 } /^CapBnd/ { exit }' " +
		"bound=$(awk '/^CapBnd/ { print $2 }' /proc/self/status) /proc/self/status"
)

func ofLinux(change func(*specs.Linux)) func(*specs.Spec) {
	return func(s *specs.Spec) { change(s.Linux) }
}

func ofProcess(change func(*specs.Process)) func(*specs.Spec) {
	return func(s *specs.Spec) { change(s.Process) }
}

func withCapabilities(uid uint32, names ...string) func(*specs.Spec) {
	return ofProcess(func(p *specs.Process) {
		p.User.UID = uid
		p.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Inheritable: names, Permitted: names, Ambient: names}
	})
}

func withoutCapabilities(uid uint32) func(*specs.Spec) {
	return ofProcess(func(p *specs.Process) { p.User.UID, p.Capabilities = uid, nil })
}

func withScheduler(s specs.Scheduler) func(*specs.Spec) {
	return ofProcess(func(p *specs.Process) { p.Scheduler = &s })
}

func withNamespace(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: kind}) })
}

func withClock(clock string, offset specs.LinuxTimeOffset) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		l.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: offset}
	})
}

func withDevice(device specs.LinuxDevice) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.Devices = append(l.Devices, device) })
}

func withRule(rule specs.LinuxDeviceCgroup) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.Resources.Devices = append(l.Resources.Devices, rule) })
}

func withSysctl(name, value string) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.Sysctl = map[string]string{name: value} })
}

func withPolicy(mode specs.MemoryPolicyModeType, nodes string) func(*specs.Spec) {
	return ofLinux(func(l *specs.Linux) { l.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Nodes: nodes} })
}

func withLimit(kind string, soft, hard uint64) func(*specs.Spec) {
	return ofProcess(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: kind, Soft: soft, Hard: hard}} })
}

func shellHook(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
}

// besideRunc are configurations that runc takes.
func besideRunc() []beside {
	return []beside{
		{"process", func(s *specs.Spec) {
			p := s.Process
			p.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7, 7, 0}, Umask: new(uint32(0o27)), Username: "nobody"}
			p.OOMScoreAdj, p.IOPriority = new(321), &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3}
			p.Scheduler, p.NoNewPrivileges = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}, true
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 123, Hard: 456}}
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}, stateOf},
		{"capabilities", withCapabilities(1000, "CAP_KILL", "CAP_NET_RAW"), "grep ^Cap /proc/self/status"},
		{"capabilities that nobody knows", withCapabilities(0, "CAP_NOSUCH", "CAP_KILL", "cap_chown"), "grep ^Cap /proc/self/status"},
		{"no capabilities at all", withoutCapabilities(0), capabilitiesOf},
		{"no capabilities at all of a user", withoutCapabilities(1000), capabilitiesOf},
		{
			"terminal", ofProcess(func(p *specs.Process) { p.Terminal, p.ConsoleSize = true, &specs.Box{Height: 33, Width: 99} }),
			"stty size; stat -c '%u %g %a' /dev/console; grep /dev/console /proc/self/mountinfo | cut -d' ' -f 6",
		},
		{"devices", func(s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices,
				specs.LinuxDevice{Path: "/dev/sub/x", Type: "u", Major: 1, Minor: 5, UID: new(uint32(5))},
				specs.LinuxDevice{Path: "dev/y", Type: "c", Major: 1, Minor: 5},
				specs.LinuxDevice{Path: "/dev/z", Type: "p", GID: new(uint32(5))})
		}, "stat -c '%F %t %T %u %g %a' /dev/sub/x /dev/y /dev/z"},
		{"the kernel's", func(s *specs.Spec) {
			withClock("boottime", specs.LinuxTimeOffset{Secs: 1000, Nanosecs: 5})(s)
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "9000", "net/ipv4/conf/lo/rp_filter": "2", "fs.mqueue.msg_max": "20"}
			s.Hostname, s.Domainname = "a", "b.c"
		}, "cat /proc/self/timens_offsets; cd /proc/sys; cat kernel/msgmax net/ipv4/conf/lo/rp_filter fs/mqueue/msg_max kernel/hostname kernel/domainname"},
		{"paths", ofLinux(func(l *specs.Linux) {
			l.MaskedPaths = []string{"/nosuch", "/etc/passwd", "/dev/shm", "/dev/null"}
			l.ReadonlyPaths = []string{"/nosuch", "/etc"}
		}), "wc -c /etc/passwd; echo x >/dev/null; touch /dev/shm/x; touch /etc/group; touch /x && echo made"},
		{"read-only root", func(s *specs.Spec) { s.Root.Readonly = true }, "touch /x"},
		{"hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: shellHook("grep -o '\"status\":\"[a-z]*\"' >/hook; echo $PATH >>/hook")}
		}, "cat /hook"},
		{"hook that fails", func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: shellHook("exit 3")} }, "true"},
		{"nothing of it", func(s *specs.Spec) {
			s.Windows, s.Linux.UIDMappings = &specs.Windows{}, []specs.LinuxIDMapping{{Size: 1}}
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(0))}
		}, "cat /proc/self/uid_map"},
		{"no more processes", ofLinux(func(l *specs.Linux) { l.Resources.Pids = &specs.LinuxPids{Limit: new(int64(0))} }), "true | true"},
		{"policy of memory", withPolicy(specs.MpolBind, "0"), "true"},
	}
}

// refusedBeside are configurations that runc refuses.
func refusedBeside() []beside {
	var none uint32 = 1<<32 - 1
	return []beside{
		{name: "no user", change: ofProcess(func(p *specs.Process) { p.User.UID = none })},
		{name: "no group", change: ofProcess(func(p *specs.Process) { p.User.GID = none })},
		{name: "no additional group", change: ofProcess(func(p *specs.Process) { p.User.AdditionalGids = []uint32{none} })},
		{name: "unknown limit", change: withLimit("NOFILE", 5, 5)},
		{name: "soft above hard", change: withLimit("RLIMIT_CORE", 6, 5)},
		{name: "OOM score", change: ofProcess(func(p *specs.Process) { p.OOMScoreAdj = new(1001) })},
		{name: "nice value", change: withScheduler(specs.Scheduler{Policy: specs.SchedOther, Nice: 40})},
		{name: "unknown policy", change: withScheduler(specs.Scheduler{Policy: "nosuch"})},
		{name: "class of I/O", change: ofProcess(func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "nosuch"} })},
		{name: "processors", change: ofProcess(func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Final: "x"} })},
		{name: "personality", change: ofLinux(func(l *specs.Linux) { l.Personality = &specs.LinuxPersonality{Domain: "nosuch"} })},
		{name: "unknown namespace", change: withNamespace("nosuch")},
		{name: "namespace twice", change: withNamespace(specs.IPCNamespace)},
		{name: "unknown clock", change: withClock("nosuch", specs.LinuxTimeOffset{Secs: 5})},
		{name: "clocks of the host", change: ofLinux(func(l *specs.Linux) { l.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5}} })},
		{name: "interface", change: ofLinux(func(l *specs.Linux) { l.NetDevices = map[string]specs.LinuxNetDevice{"nosuch": {}} })},
		{name: "unknown policy of memory", change: withPolicy("nosuch", "")},
		{name: "type of a device", change: withDevice(specs.LinuxDevice{Path: "/dev/x", Type: "x"})},
		{name: "access of a rule", change: withRule(specs.LinuxDeviceCgroup{Type: "c"})},
		{name: "the host's sysctl", change: withSysctl("kernel.panic", "1")},
		{name: "class of the processor", change: ofLinux(func(l *specs.Linux) { l.IntelRdt = &specs.LinuxIntelRdt{ClosID: ".."} })},
		// The specification has a hook's path absolute; runc does not look, and fails where none is there.
		{name: "relative hook", change: func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "bin/true"}}} }},
		{name: "hook without time", change: func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true", Timeout: new(0)}}}
		}},
		{name: "hook after the start", change: func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: shellHook("exit 3")} }},
	}
}

// What a configuration asks of the kernel beside mounts and filters of system calls is done as under
// runc, or refused as there. So is what an exec and an update ask for.
func TestLinuxBesideRunc(t *testing.T) {
	nothingLeft(t)
	theirs, ours := bothSides(t)
	places := placesBeside(t, t.TempDir())
	results := map[string]map[string]string{}
	for _, side := range []side{theirs, ours} {
		seen := map[string]string{}
		for _, c := range slices.Concat(besideRunc(), refusedBeside(), places) {
			change := func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
				c.change(s)
				return nil
			}
			o := side.run(t, change, "sh", "-c", "exec 2>&1; "+c.script)
			switch {
			case c.script == "" && o.failed != "":
				seen["refused: "+c.name] = "refused"
			case c.script == "":
				seen["refused: "+c.name] = o.String()
			case c.name == "hook that fails": // each runtime says it in its words
				seen[c.name] = fmt.Sprint(o.code, o.failed)
			default:
				seen[c.name] = o.String()
			}
			if side.runtime == ours.runtime && c.script == "" && strings.Contains(o.failed, "OCI runtime create failed") && !strings.Contains(c.name, "sysctl") && c.name != "unknown policy" {
				t.Errorf("%s is refused only by the guest's runtime: %s", c.name, o.failed)
			}
		}
		endBeside(t, side, seen)
		execsBeside(t, side, seen)
		updatesBeside(t, side, seen)
		results[side.runtime] = seen
	}
	compareBeside(t, results[theirs.runtime], results[ours.runtime], map[string]string{
		"policy of memory": "a microVM sees no nodes of the host's memory",
	})
}

// execsBeside tries execs in a container whose process is scheduled otherwise than by default.
func execsBeside(t *testing.T, side side, seen map[string]string) {
	t.Helper()
	c := side.start(t, func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Process.User.Umask, s.Process.OOMScoreAdj = new(uint32(0o27)), new(77)
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 2}
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 4}
		return nil
	})
	for name, change := range map[string]func(*specs.Process){
		"as the container": func(p *specs.Process) {
			p.User.Umask, p.OOMScoreAdj, p.IOPriority, p.Scheduler, p.Capabilities = nil, nil, nil, nil, nil
		},
		"otherwise": func(p *specs.Process) {
			p.User.Umask, p.OOMScoreAdj = new(uint32(0o77)), new(5)
			p.IOPriority, p.Scheduler = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}, &specs.Scheduler{Policy: specs.SchedOther, Nice: 9}
		},
		"processors":   func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"} },
		"no user":      func(p *specs.Process) { p.User.UID = 1<<32 - 1 },
		"no variables": func(p *specs.Process) { p.Env, p.Args = nil, []string{"/bin/env"} },
	} {
		process := execOf(t, c, stateOf)
		change(process)
		o := execBeside(t, c, process)
		seen["exec: "+name] = o.String()
		if o.failed != "" {
			seen["exec: "+name] = "refused"
		}
	}
}

// execOf is a process like the container's that runs a script.
func execOf(t *testing.T, c *task, script string) *specs.Process {
	t.Helper()
	spec, err := c.container.Spec(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Args = []string{"sh", "-c", script}
	return spec.Process
}

// execBeside runs a process in a container, and waits for its output before it is deleted: on a busy
// machine containerd's client may else give the opening of a FIFO up, whatever the runtime.
func execBeside(t *testing.T, c *task, process *specs.Process) outcome {
	t.Helper()
	var out harness.Buffer
	streams := cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out))
	created, err := c.Exec(c.ctx, fmt.Sprintf("exec%d", time.Now().UnixNano()), process, streams)
	if err != nil {
		return outcome{failed: err.Error()}
	}
	return outcomeOf(c.ctx, t, &out, created, nil)
}

// limitsInGroup are the limits of a container, as version 2 of control groups has them.
const limitsInGroup = `cd /sys/fs/cgroup; if [ -e cpu.max ]; then cat cpu.max pids.max memory.max; else
cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max memory/memory.limit_in_bytes |
sed -e 's/^-1$/max/' -e 's/^9223372036854771712$/max/' | sed -e '1{N;s/\n/ /}'; fi`

// updatesBeside updates a container's limits, one after the other.
func updatesBeside(t *testing.T, side side, seen map[string]string) {
	t.Helper()
	c := side.start(t, oci.WithMounts([]specs.Mount{{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"ro"}}}))
	const mib = 1 << 20
	for i, resources := range []specs.LinuxResources{
		{},
		{CPU: &specs.LinuxCPU{Quota: new(int64(30_000)), Period: new(uint64(60_000))}, Pids: &specs.LinuxPids{Limit: new(int64(44))}, Memory: &specs.LinuxMemory{Limit: new(int64(64 * mib))}},
		{CPU: &specs.LinuxCPU{Quota: new(int64(40_000))}},
		{CPU: &specs.LinuxCPU{Period: new(uint64(80_000))}},
		{CPU: &specs.LinuxCPU{Quota: new(int64(-1))}, Pids: &specs.LinuxPids{Limit: new(int64(-1))}},
		{Memory: &specs.LinuxMemory{Limit: new(int64(0))}},
		{Memory: &specs.LinuxMemory{Limit: new(int64(8192)), CheckBeforeUpdate: new(true)}},
		{Memory: &specs.LinuxMemory{Reservation: new(int64(-2))}},
		{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		{CPU: &specs.LinuxCPU{Period: new(uint64(5))}},
		{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}},
	} {
		result := "taken"
		if err := c.Update(c.ctx, client.WithResources(&resources)); err != nil {
			result = "refused"
		}
		seen[fmt.Sprintf("update %d", i)] = result + ": " + execBeside(t, c, execOf(t, c, limitsInGroup+"; head -c 1 /dev/zero | wc -c")).String()
	}
}
