// Package pod drives the runtime as the kubelet does: through containerd's CRI plugin,
// with both of its sandboxers.
package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var (
	host     *harness.Host
	runtime  cri.RuntimeServiceClient
	images   cri.ImageServiceClient
	handlers []string // runtime handlers under test
)

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) int { return run(m, h) }, harness.CRI, harness.ErofsPods, harness.ErofsSize(layerSize)))
}

func run(m *testing.M, h *harness.Host) int {
	conn, err := grpc.NewClient("unix://"+h.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "connecting to the CRI plugin:", err)
		return 1
	}
	defer conn.Close()
	host, handlers, runtime, images = h, h.Handlers(), cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	return m.Run()
}

// nothingLeft fails the test if, at its end, something is there that was not at its
// start.
func nothingLeft(t *testing.T) {
	t.Helper()
	host.NothingLeft(t)
}

// perHandler runs a test with each of the handlers; under the krun driver with one, for they
// differ in what containerd asks of the shim, and not in the VM.
func perHandler(t *testing.T, test func(t *testing.T, handler string)) {
	t.Helper()
	perHandlerOf(t, handlers, test)
}

func perHandlerOf(t *testing.T, tried []string, test func(t *testing.T, handler string)) {
	t.Helper()
	if host.Driver == "krun" {
		tried = tried[:1]
	}
	for _, handler := range tried {
		t.Run(handler, func(t *testing.T) {
			nothingLeft(t)
			test(t, handler)
		})
	}
}

// call bounds a call of the CRI.
func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	t.Cleanup(cancel)
	return ctx
}

// pod is a running pod.
type pod struct {
	t       *testing.T
	id      string
	handler string
	config  *cri.PodSandboxConfig
	attempt uint32
}

// podConfig is the configuration of a pod of the test, as the kubelet writes it.
func podConfig(t *testing.T) *cri.PodSandboxConfig {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: fmt.Sprint(time.Now().UnixNano()), Namespace: "test"},
		Hostname:     "pod",
		LogDirectory: t.TempDir(),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"test.svc"}, Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: host.PodsCgroup(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

// startPod runs a pod; the test's end removes it.
func startPod(t *testing.T, handler string, change func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{t: t, handler: handler, config: podConfig(t)}
	if change != nil {
		change(p.config)
	}
	host.SettleSpares()
	response, err := runtime.RunPodSandbox(call(t), &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		t.Fatalf("running the pod: %v", err)
	}
	p.id = response.PodSandboxId
	t.Cleanup(p.remove)
	return p
}

// remove stops and removes the pod.
func (p *pod) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Errorf("stopping the pod: %v", err)
	}
	if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Errorf("removing the pod: %v", err)
	}
}

// container is one of a pod.
type container struct {
	*pod
	id string
}

// create makes a container of the pod.
func (p *pod) create(name string, change func(*cri.ContainerConfig), command ...string) (*container, error) {
	p.t.Helper()
	p.attempt++
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name, Attempt: p.attempt},
		Image:    &cri.ImageSpec{Image: harness.Image},
		Command:  command,
		LogPath:  fmt.Sprintf("%s-%d.log", name, p.attempt),
		Linux: &cri.LinuxContainerConfig{
			Resources:       &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions},
		},
	}
	if change != nil {
		change(config)
	}
	response, err := runtime.CreateContainer(call(p.t), &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return nil, err
	}
	c := &container{p, response.ContainerId}
	if _, err := runtime.StartContainer(call(p.t), &cri.StartContainerRequest{ContainerId: c.id}); err != nil {
		return c, err
	}
	return c, nil
}

// start is create, of one that must start.
func (p *pod) start(name string, change func(*cri.ContainerConfig), command ...string) *container {
	p.t.Helper()
	c, err := p.create(name, change, command...)
	if err != nil {
		p.t.Fatalf("starting container %s: %v", name, err)
	}
	return c
}

var sleeper = harness.Sleeper

// exec runs a shell script in the container.
func (c *container) exec(script string) (output string, code int32) {
	c.t.Helper()
	response, err := runtime.ExecSync(call(c.t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", script}, Timeout: int64(harness.Patience.Seconds())})
	if err != nil {
		c.t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(string(response.Stdout) + string(response.Stderr)), response.ExitCode
}

// must runs a script that is to succeed and returns what it printed.
func (c *container) must(script string) string {
	c.t.Helper()
	output, code := c.exec(script)
	if code != 0 {
		c.t.Errorf("%s: exit code %d\n%s", script, code, output)
	}
	return output
}

// want runs a script that is to print a text.
func (c *container) want(text, script string) {
	c.t.Helper()
	if output := c.must(script); output != text {
		c.t.Errorf("%s: printed %q, want %q", script, output, text)
	}
}

// status is what the CRI plugin says of the container.
func (c *container) status() *cri.ContainerStatus {
	c.t.Helper()
	response, err := runtime.ContainerStatus(call(c.t), &cri.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		c.t.Fatal(err)
	}
	return response.Status
}

// exited waits for the container's end.
func (c *container) exited() *cri.ContainerStatus {
	c.t.Helper()
	var status *cri.ContainerStatus
	if !harness.Eventually(func() bool {
		status = c.status()
		return status.State == cri.ContainerState_CONTAINER_EXITED
	}) {
		c.t.Fatalf("the container has not ended: %v", status.State)
	}
	return status
}

// stop stops the container as the kubelet does.
func (c *container) stop() {
	c.t.Helper()
	if _, err := runtime.StopContainer(call(c.t), &cri.StopContainerRequest{ContainerId: c.id, Timeout: 10}); err != nil {
		c.t.Errorf("stopping a container: %v", err)
	}
}

// delete removes the container.
func (c *container) delete() {
	c.t.Helper()
	if _, err := runtime.RemoveContainer(call(c.t), &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
		c.t.Errorf("removing a container: %v", err)
	}
}

// log is what the container has printed so far, without what the CRI's log has
// before it.
func (c *container) log() string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.config.LogDirectory, c.status().LogPath))
	if path := c.status().LogPath; filepath.IsAbs(path) {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) == 4 {
			text.WriteString(fields[3])
		}
	}
	return text.String()
}

// running is how many containers of the pod run.
func (p *pod) running() int {
	p.t.Helper()
	response, err := runtime.ListContainers(call(p.t), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		PodSandboxId: p.id, State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	return len(response.Containers)
}

// shim is the process id of the pod's shim.
func (p *pod) shim() int {
	p.t.Helper()
	for pid, name := range harness.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if name == "containerd-shim" && strings.Contains(string(line), p.id) {
			return pid
		}
	}
	p.t.Fatalf("no shim of the pod %s", p.id)
	return 0
}

// treePlace is where a tag is mounted below the directory of a bundle or spare.
var treePlace = regexp.MustCompile(`/msb/(?:pool|files)/(.+)`)

// shares are the tags of what the VM of the pod is given, sorted.
func (p *pod) shares() (tags []string) {
	p.t.Helper()
	mounts, err := harness.Mounts(p.shim(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, m := range mounts {
		if place := treePlace.FindStringSubmatch(m.Mountpoint); place != nil && host.Has(m.Mountpoint) {
			tags = append(tags, place[1])
		}
	}
	slices.Sort(tags)
	return tags
}

// given are those of root file systems.
func (p *pod) given() []string {
	p.t.Helper()
	return slices.DeleteFunc(p.shares(), func(tag string) bool { return !strings.HasPrefix(tag, "rf_") })
}

// roots is how many there should be.
func (p *pod) roots() int {
	p.t.Helper()
	if p.handler == harness.PauseHandler {
		return p.running() + 1
	}
	return p.running()
}

// child is the process id of a child of the pod's shim, by its name.
func (p *pod) child(name string) int {
	p.t.Helper()
	shim := p.shim()
	for pid, its := range harness.Processes() {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if its == name && strings.Contains(string(stat), fmt.Sprintf("\nPPid:\t%d\n", shim)) {
			return pid
		}
	}
	p.t.Fatalf("the pod has no process %s", name)
	return 0
}
