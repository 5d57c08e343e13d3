package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

const (
	echoAddress = harness.BridgeAddress + ":7"
	roundtrips  = 500
)

// network compares a container with one of runc, each in a network namespace on one
// bridge, as CNI's bridge plugin makes them: what goes to a server of the host and
// comes back.
func network(host *harness.Host) (results []result, err error) {
	b := &lanTest{host: host}
	defer func() {
		if failure := recover(); failure != nil && err == nil {
			err = fmt.Errorf("%v", failure)
		}
		b.end()
	}()
	ctx, cancel := host.Context()
	defer cancel()
	lan := host.NewLAN(b)
	if err := b.serve(); err != nil {
		return nil, err
	}
	containers := make(map[string]*running)
	for runtime, address := range map[string]string{harness.Runtime: "10.99.0.2", runc: "10.99.0.3"} {
		port := lan.Port("net" + address[len(address)-1:])
		port.Plug("eth0", 1500, address+"/24", strings.Replace(address, "10.99.0.", "fd99::", 1)+"/64")
		c, err := start(ctx, host, "network-"+address, runtime, cio.NullIO, []oci.SpecOpts{
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: port.Path}),
			oci.WithMounts([]specs.Mount{{Type: "bind", Source: filepath.Join(host.Output, "tools"), Destination: "/tools", Options: []string{"rbind", "ro"}}}),
		}, "sh", "-c", "while :; do sleep 1; done")
		if err != nil {
			return nil, err
		}
		defer func() { err = c.remove(ctx) }()
		containers[runtime] = c
	}
	rates, latencies, costs := make(map[string][]float64), make(map[string][]time.Duration), make(map[string][]float64)
	for range rounds {
		for runtime, c := range containers {
			size := int64(64 << 20)
			if runtime == runc {
				size <<= 3
			}
			before, began := cpuTime(c), time.Now()
			if out, err := probe(ctx, c, "pump", "tcp:"+echoAddress, "1", strconv.FormatInt(size, 10)); out != "ok" || err != nil {
				return nil, fmt.Errorf("pumping under %s: %s, %v", runtime, out, err)
			}
			rates[runtime] = append(rates[runtime], float64(size)/(1<<20)/time.Since(began).Seconds())
			costs[runtime] = append(costs[runtime], (cpuTime(c)-before).Seconds()*(1<<30)/float64(size))
			out, err := probe(ctx, c, "roundtrip", "tcp:"+echoAddress, strconv.Itoa(roundtrips))
			took, parseErr := time.ParseDuration(out)
			if err != nil || parseErr != nil {
				return nil, fmt.Errorf("round trips under %s: %s, %v", runtime, out, err)
			}
			latencies[runtime] = append(latencies[runtime], took)
		}
	}
	ours, theirs := middle(rates[harness.Runtime]), middle(rates[runc])
	cost, theirCost := middle(costs[harness.Runtime]), middle(costs[runc])
	latency, theirLatency := median(latencies[harness.Runtime]), median(latencies[runc])
	return []result{
		{name: "TCP to the host and back, of runc's throughput", ours: fmt.Sprintf("%.0f MiB/s", ours), theirs: fmt.Sprintf("%.0f MiB/s", theirs), figure: ours / theirs, unit: " ×"},
		{name: "one round trip, of runc's", ours: latency.String(), theirs: theirLatency.String(), figure: float64(latency) / float64(theirLatency), unit: " ×"},
		{name: "processor time of the container's group for 1 GiB each way", ours: fmt.Sprintf("%.1f s", cost), theirs: fmt.Sprintf("%.1f s", theirCost), figure: cost / theirCost, unit: " ×"},
	}, nil
}

// lanTest is what a LAN wants of a test.
type lanTest struct {
	host     *harness.Host
	cleanups []func()
}

func (*lanTest) Helper() {}

func (*lanTest) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (b *lanTest) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

func (b *lanTest) TempDir() string {
	dir, err := os.MkdirTemp(b.host.Dir, "lan-")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

func (b *lanTest) end() {
	for i := len(b.cleanups) - 1; i >= 0; i-- {
		b.cleanups[i]()
	}
}

// serve echoes at the bridge's address.
func (b *lanTest) serve() error {
	var listener net.Listener
	err := b.host.InNetwork(func() (err error) {
		listener, err = net.Listen("tcp", echoAddress)
		return err
	})
	if err != nil {
		return err
	}
	b.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return nil
}

// probe runs the probe in a container.
func probe(ctx context.Context, c *running, arguments ...string) (string, error) {
	spec, err := c.container.Spec(ctx)
	if err != nil {
		return "", err
	}
	process := *spec.Process
	process.Args = append([]string{"/tools/probe"}, arguments...)
	var out harness.Buffer
	created, err := c.Exec(ctx, fmt.Sprintf("probe%d", time.Now().UnixNano()), &process, cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)))
	if err != nil {
		return "", err
	}
	exit, err := created.Wait(ctx)
	if err == nil {
		err = created.Start(ctx)
	}
	if err == nil {
		if status := <-exit; status.ExitCode() != 0 && out.String() == "" {
			err = fmt.Errorf("probe %v: exit code %d", arguments, status.ExitCode())
		}
	}
	_, deleteErr := created.Delete(ctx)
	if err == nil {
		err = deleteErr
	}
	return strings.TrimSpace(out.String()), err
}

// cpuTime is what the processes of a container's control group have used on the
// host (cgroup v1: cpuacct.usage; v2: cpu.stat).
func cpuTime(c *running) time.Duration {
	group := filepath.Join(harness.Namespace, c.container.ID())
	if data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuacct", group, "cpuacct.usage")); err == nil {
		nanoseconds, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return time.Duration(nanoseconds)
	}
	data, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", group, "cpu.stat"))
	var microseconds int64
	_, _ = fmt.Sscanf(string(data), "usage_usec %d", &microseconds)
	return time.Duration(microseconds) * time.Microsecond
}
