package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

const runc = "io.containerd.runc.v2"

// boot compares a whole "ctr run --rm ... true" with the time that the same
// machine takes from its start to the agent's first reply.
func boot(host *harness.Host) ([]result, error) {
	var raw, whole, native []time.Duration
	for i := range rounds {
		took, err := bareBoot(host)
		if err != nil {
			return nil, fmt.Errorf("booting a machine: %w", err)
		}
		raw = append(raw, took)
		for runtime, times := range map[string]*[]time.Duration{harness.Runtime: &whole, runc: &native} {
			took, err := runTrue(host, fmt.Sprintf("boot%d", i), "--runtime", runtime)
			if err != nil {
				return nil, err
			}
			*times = append(*times, took)
		}
	}
	ours, bare := median(whole), median(raw)
	return []result{{
		name: "ctr run --rm … true, against a bare boot", ours: show(ours), theirs: show(bare) + " bare (runc here: " + show(median(native)) + ")",
		figure: float64(ours) / float64(bare), bound: 2, atMost: true, unit: " ×",
	}}, nil
}

// runTrue is how long a whole "ctr run --rm ... true" takes.
func runTrue(host *harness.Host, id string, options ...string) (time.Duration, error) {
	begin := time.Now()
	if _, stderr, code := host.Ctr(append(append([]string{"run", "--rm"}, options...), harness.Image, id, "true")...); code != 0 {
		return 0, fmt.Errorf("ctr run %v: %s", options, stderr)
	}
	return time.Since(begin), nil
}

// bareBoot is a machine of the default size, without containerd and containers.
func bareBoot(host *harness.Host) (time.Duration, error) {
	dir, err := os.MkdirTemp(host.Dir, "bare-")
	if err != nil {
		return 0, err
	}
	trees, err := share.Open(dir, mountns.Namespace{}, nil)
	if err != nil {
		return 0, err
	}
	defer trees.Close()
	if err := os.Mkdir(filepath.Join(dir, "vm"), 0o700); err != nil {
		return 0, err
	}
	size := config.Default().VM
	kit := filepath.Join(host.Output, "lib", "msb")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := time.Now()
	machine, err := qemu.Driver{}.Start(ctx, vm.Config{
		Kernel: filepath.Join(kit, "vmlinux"), Disk: filepath.Join(kit, "guest.erofs"), Init: api.Init,
		CPUs: size.CPUs, Memory: int64(size.Memory),
		Shares: []vm.Share{
			{Tag: api.PoolTag, Dir: trees.Pool(), Submounts: true},
			{Tag: api.FilesTag, Dir: trees.Files()},
		},
		Console: vm.NewConsole(func(string) {}),
		Dir:     filepath.Join(dir, "vm"),
	})
	if err != nil {
		return 0, err
	}
	defer machine.Stop(ctx)
	conn, err := machine.Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	err = api.OpenStream(conn, &api.StreamHeader{Purpose: &api.StreamHeader_Control{Control: &api.ControlStream{}}})
	return time.Since(start), err
}

// running is a started container of the bench.
type running struct {
	client.Task
	container client.Container
	exit      <-chan client.ExitStatus
}

func start(ctx context.Context, host *harness.Host, id, runtime string, creator cio.Creator, spec []oci.SpecOpts, command ...string) (*running, error) {
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		return nil, err
	}
	spec = append([]oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs(command...)}, spec...)
	container, err := host.Client.NewContainer(ctx, id, client.WithNewSnapshot(id, image), client.WithNewSpec(spec...), withRuntime(host, runtime))
	if err != nil {
		return nil, err
	}
	return startTask(ctx, container, creator)
}

// above makes a container above a committed snapshot.
func above(ctx context.Context, host *harness.Host, id, runtime, snapshotter, layer string, spec []oci.SpecOpts) (client.Container, error) {
	if _, err := host.Client.SnapshotService(snapshotter).Prepare(ctx, id, layer); err != nil {
		return nil, err
	}
	spec = append([]oci.SpecOpts{oci.WithEnv([]string{"PATH=/bin"})}, spec...)
	return host.Client.NewContainer(ctx, id, client.WithSnapshotter(snapshotter), client.WithSnapshot(id), client.WithNewSpec(spec...), withRuntime(host, runtime))
}

// startTask starts a container. One that does not start is removed.
func startTask(ctx context.Context, container client.Container, creator cio.Creator) (_ *running, err error) {
	r := &running{container: container}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove(ctx))
		}
	}()
	if r.Task, err = container.NewTask(ctx, creator); err != nil {
		return nil, err
	}
	if r.exit, err = r.Wait(ctx); err != nil {
		return nil, err
	}
	return r, r.Start(ctx)
}

// withRuntime is the driver under test for our runtime.
func withRuntime(host *harness.Host, runtime string) client.NewContainerOpts {
	if runtime == harness.Runtime {
		return host.WithRuntime()
	}
	return client.WithRuntime(runtime, nil)
}

func (r *running) remove(ctx context.Context) error {
	var errs []error
	if r.Task != nil {
		_, err := r.Delete(ctx, client.WithProcessKill)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, r.container.Delete(ctx, client.WithSnapshotCleanup))...)
}

// execs compares "ctr task exec ... true" with runc's own exec inside the guest:
// in a privileged container a second runc runs a container of its own.
func execs(host *harness.Host) (_ []result, err error) {
	ctx, cancel := host.Context()
	defer cancel()
	c, err := start(ctx, host, "exec", harness.Runtime, cio.NullIO, []oci.SpecOpts{
		oci.WithPrivileged, oci.WithAllDevicesAllowed,
		oci.WithMounts([]specs.Mount{
			{Type: "bind", Source: filepath.Join(host.Output, "tools", "runc"), Destination: "/runc", Options: []string{"ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/b", Options: []string{"mode=755"}},
		}),
	}, "sh", "-c", "while :; do sleep 1; done")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.remove(ctx)) }()
	inGuest := func(script string) (time.Duration, error) {
		begin := time.Now()
		_, stderr, code := host.Ctr("task", "exec", "--exec-id", fmt.Sprintf("x%d", begin.UnixNano()), "exec", "sh", "-c", script)
		if code != 0 {
			return 0, fmt.Errorf("%s: %s", script, stderr)
		}
		return time.Since(begin), nil
	}
	// As the agent's does, the inner runc comes from a local disk.
	const prepare = `set -e
		grep -q cgroup2 /proc/self/mountinfo || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		cp /runc /b/runc && mkdir -p /b/inner/rootfs/bin /b/inner/rootfs/proc /b/inner/rootfs/dev /b/inner/rootfs/sys && cp /bin/busybox /b/inner/rootfs/bin/
		cd /b/inner && ln -s busybox rootfs/bin/true && ln -s busybox rootfs/bin/sleep && /b/runc spec
		sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sleep", "1000"/' config.json
		/b/runc --root /b/state run -d inner </dev/null >/b/log 2>&1 || { cat /b/log >&2; exit 1; }`
	if _, err := inGuest(prepare); err != nil {
		return nil, err
	}
	const times = 5
	loop := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /b/runc --root /b/state exec inner true || exit 1; i=$((i+1)); done", times)
	ours, theirs := &way{name: "ctr task exec … true"}, &way{name: fmt.Sprintf("runc exec in the guest, the mean of %d", times)}
	for range *startRounds {
		one, err := inGuest("true")
		if err != nil {
			return nil, err
		}
		many, err := inGuest(loop)
		if err != nil {
			return nil, err
		}
		plain := time.Now()
		if _, stderr, code := host.Ctr("task", "exec", "--exec-id", fmt.Sprintf("y%d", plain.UnixNano()), "exec", "true"); code != 0 {
			return nil, fmt.Errorf("ctr task exec: %s", stderr)
		}
		ours.times = append(ours.times, time.Since(plain))
		theirs.times = append(theirs.times, (many-one)/times)
	}
	printPercentiles(fmt.Sprintf("exec, %d of each, in turns", *startRounds), ours, theirs)
	return []result{{
		name: ours.name + ", against runc exec in the guest", ours: show(median(ours.times)), theirs: show(median(theirs.times)) + " runc exec",
		figure: float64(median(ours.times)) / float64(median(theirs.times)), bound: 1.5, atMost: true, unit: " ×",
	}}, nil
}

// meter takes output and notes when its first and last bytes came.
type meter struct {
	bytes       int64
	first, last time.Time
}

func (m *meter) Write(p []byte) (int, error) {
	m.last = time.Now()
	if m.bytes == 0 {
		m.first = m.last
	}
	m.bytes += int64(len(p))
	return len(p), nil
}

// output compares the throughput of a container's stdout with runc's here.
func output(host *harness.Host) ([]result, error) {
	const mib = 100
	rate := map[string][]time.Duration{}
	ctx, cancel := host.Context()
	defer cancel()
	for i := range 3 {
		for _, runtime := range []string{harness.Runtime, runc} {
			var m meter
			c, err := start(ctx, host, fmt.Sprintf("output%d", i), runtime, cio.NewCreator(cio.WithStreams(nil, &m, io.Discard)), nil,
				"dd", "if=/dev/zero", "bs=1M", "count="+strconv.Itoa(mib))
			if err != nil {
				return nil, err
			}
			<-c.exit
			if err := c.remove(ctx); err != nil {
				return nil, err
			}
			if m.bytes != mib<<20 {
				return nil, fmt.Errorf("%d bytes of %d MiB arrived under %s", m.bytes, mib, runtime)
			}
			rate[runtime] = append(rate[runtime], m.last.Sub(m.first))
		}
	}
	ours, theirs := median(rate[harness.Runtime]), median(rate[runc])
	speed := func(d time.Duration) string { return fmt.Sprintf("%.0f MiB/s", mib/d.Seconds()) }
	return []result{{
		name: "100 MiB to stdout, against runc on this host", ours: speed(ours), theirs: speed(theirs) + " runc",
		figure: float64(theirs) / float64(ours), bound: 0.1, unit: " ×",
	}}, nil
}

var agentTrace = regexp.MustCompile(`the agent's resident memory".* bytes=(\d+)`)

// memory is the resident memory of the shim and of the agent with one container.
func memory(host *harness.Host) ([]result, error) {
	ctx, cancel := host.Context()
	defer cancel()
	c, err := start(ctx, host, "memory", harness.Runtime, cio.NullIO, nil, "sleep", "1000")
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	var shim, vmm, beside float64
	for pid, name := range harness.Processes() {
		switch {
		case strings.HasPrefix(name, "containerd-shim"):
			shim = max(shim, residentMiB(pid))
		case name == host.VMM():
			vmm, beside = residentMiB(pid), besideRAM(pid)
		}
	}
	if err := c.remove(ctx); err != nil {
		return nil, err
	}
	seen := agentTrace.FindAllStringSubmatch(host.Log(), -1)
	if len(seen) == 0 {
		return nil, errors.New("the log does not tell the agent's memory")
	}
	var agent float64
	for _, match := range seen {
		bytes, _ := strconv.ParseFloat(match[1], 64)
		agent = max(agent, bytes/(1<<20))
	}
	return []result{
		{name: "resident memory of the shim", ours: fmt.Sprintf("%.1f MiB", shim), theirs: fmt.Sprintf("(%s: %.0f MiB)", host.Driver, vmm), figure: shim, bound: 30, atMost: true, unit: " MiB"},
		{name: "resident memory of shim and VMM, beside the guest's RAM", ours: fmt.Sprintf("%.1f MiB", shim+beside), theirs: "", figure: shim + beside, bound: 40, atMost: true, unit: " MiB"},
		{name: "resident memory of the agent, largest seen", ours: fmt.Sprintf("%.1f MiB", agent), theirs: "", figure: agent, bound: 25, atMost: true, unit: " MiB"},
	}, nil
}

// besideRAM is the resident memory of a VMM without its guest's RAM, which is the
// mappings that are larger than anything else of a VMM's (proc_pid_smaps(5)).
func besideRAM(pid int) (mib float64) {
	const ram = 48 << 20
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	var start, end uint64
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "%x-%x ", &start, &end); err == nil {
			continue
		}
		if _, err := fmt.Sscanf(line, "Rss: %f kB", &kib); err == nil && end-start < ram {
			mib += kib / 1024
		}
	}
	return mib
}

func residentMiB(pid int) float64 {
	var size, pages float64
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	_, _ = fmt.Sscan(string(data), &size, &pages)
	return pages * float64(unix.Getpagesize()) / (1 << 20)
}
