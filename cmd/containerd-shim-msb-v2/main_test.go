package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/manager"
)

// asShim makes the test's program the shim, as which it starts itself.
const asShim = "MSB_TEST_AS_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const (
	namespace = "space"
	id        = "box"
)

// A containerd is what a shim sees of one.
type containerd struct {
	t              *testing.T
	bundle, socket string
	directory      string // in which it starts the shim
}

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	c := &containerd{t: t, bundle: filepath.Join(t.TempDir(), id)}
	c.directory = c.bundle
	c.socket = filepath.Join(filepath.Dir(c.bundle), "containerd.sock")
	if err := errors.Join(os.Mkdir(c.bundle, 0o700), unix.Mkfifo(filepath.Join(c.bundle, "log"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return c
}

// shim calls the shim as every containerd does, with something on stdin or nothing.
func (c *containerd) shim(stdin []byte, arguments ...string) (stdout []byte, err error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{
		"-namespace", namespace, "-address", c.socket, "-publish-binary", "/usr/bin/containerd", "-id", id,
	}, arguments...)...)
	cmd.Dir = c.directory
	cmd.Env = append(os.Environ(), asShim+"=1", "GORACE=atexit_sleep_ms=0", "GOMAXPROCS=2", "MAX_SHIM_VERSION=2",
		"TTRPC_ADDRESS="+c.socket+".ttrpc", "GRPC_ADDRESS="+c.socket, "NAMESPACE="+namespace)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if stdout, err = cmd.Output(); err != nil {
		err = errors.Join(err, errors.New(errOut.String()))
	}
	return stdout, err
}

// start starts a shim whose log it reads, as containerd does.
func (c *containerd) start(stdin []byte, arguments ...string) (stdout []byte) {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.bundle, "log"), os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = log.Close() })
	go func() { _, _ = io.Copy(io.Discard, log) }()
	stdout, err = c.shim(stdin, append(arguments, "start")...)
	if err != nil {
		c.t.Fatal(err)
	}
	return stdout
}

func marshal(t *testing.T, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func dial(t *testing.T, address string) *ttrpc.Client {
	t.Helper()
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		t.Fatalf("not an address: %q", address)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// connect asks the shim for its process id.
func connect(t *testing.T, client *ttrpc.Client, service string) (pid uint32) {
	t.Helper()
	response := new(taskapi.ConnectResponse)
	if err := client.Call(t.Context(), service, "Connect", &taskapi.ConnectRequest{ID: id}, response); err != nil || response.GetShimPid() == 0 {
		t.Errorf("connect: %v, %v", response, err)
	}
	return response.GetShimPid()
}

// end shuts a shim down and waits until it is gone.
func end(t *testing.T, client *ttrpc.Client, address string) {
	t.Helper()
	if err := client.Call(t.Context(), "containerd.task.v2.Task", "Shutdown", &taskapi.ShutdownRequest{ID: id}, new(emptypb.Empty)); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := client.UserOnCloseWait(ctx); err != nil {
		t.Errorf("the shim does not end: %v", err)
	}
	path := strings.TrimPrefix(address, "unix://")
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is left", path)
		}
	}
}

// containerd 1.6 to 2.2 give the runtime's options on stdin, or nothing, and take
// an address.
func TestStartLegacy(t *testing.T) {
	needRoot(t)
	options, err := anypb.New(&runtimeoptions.Options{ConfigPath: "/etc/msb/config.toml"})
	if err != nil {
		t.Fatal(err)
	}
	for name, stdin := range map[string][]byte{"no options": nil, "options": marshal(t, options)} {
		t.Run(name, func(t *testing.T) {
			c := newContainerd(t)
			address := string(c.start(stdin, "-debug"))
			client := dial(t, address)
			defer end(t, client, address)
			// After its own restart containerd reads the address here.
			if kept, err := os.ReadFile(filepath.Join(c.bundle, "address")); err != nil || string(kept) != address {
				t.Errorf("the bundle says %q, %v", kept, err)
			}
			pid := connect(t, client, "containerd.task.v2.Task")
			// That is where pkg/shim takes the address for events from.
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil || !strings.Contains(string(environment), "TTRPC_ADDRESS="+c.socket+".ttrpc\x00") {
				t.Errorf("the shim's environment: %q, %v", environment, err)
			}
		})
	}
}

// A sandbox's shim tells containerd 2.0 to 2.2 the version of its Task API: they send it
// members only then.
func TestStartLegacySandbox(t *testing.T) {
	needRoot(t)
	c := newContainerd(t)
	c.bundle = filepath.Join(c.bundle, "io.containerd.sandbox.controller.v1.shim", namespace, id)
	c.directory = c.bundle
	if err := errors.Join(os.MkdirAll(c.bundle, 0o700), unix.Mkfifo(filepath.Join(c.bundle, "log"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Version           int
		Protocol, Address string
	}
	if output := c.start(nil); json.Unmarshal(output, &answer) != nil || answer.Version != 3 || answer.Protocol != "ttrpc" {
		t.Fatalf("the answer is %s", output)
	}
	client := dial(t, answer.Address)
	defer end(t, client, answer.Address)
	connect(t, client, "containerd.task.v3.Task")
}

// Since 2.3 there are parameters on stdin, and the answer is a message.
func TestStart(t *testing.T) {
	needRoot(t)
	c := newContainerd(t)
	sockets, err := os.MkdirTemp("", "") // short, for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	params := &bootapi.BootstrapParams{InstanceID: id, Namespace: namespace, ContainerdGrpcAddress: c.socket, SocketDir: &sockets}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(c.start(marshal(t, params)), &result); err != nil {
		t.Fatal(err)
	}
	if result.GetVersion() != 3 || result.GetProtocol() != "ttrpc" || !strings.HasPrefix(result.GetAddress(), "unix://"+sockets+"/") {
		t.Errorf("the answer is %v", &result)
	}
	// That is where pkg/shim looks for the socket if serving fails.
	if kept, err := os.Readlink(filepath.Join(c.bundle, "s")); err != nil || kept != sockets {
		t.Errorf("the bundle says %q, %v", kept, err)
	}
	client := dial(t, result.GetAddress())
	defer end(t, client, result.GetAddress())
	connect(t, client, "containerd.task.v3.Task")
}

func TestStartRefused(t *testing.T) {
	c := newContainerd(t)
	stdout, err := c.shim([]byte("neither"), "start")
	if err == nil || !strings.Contains(err.Error(), "neither bootstrap parameters nor a runtime's options") {
		t.Errorf("start with nonsense on stdin: %q, %v", stdout, err)
	}
}

// The other actions are the same for every containerd. A bundle of which nothing is
// known is of a task that was killed.
func TestDelete(t *testing.T) {
	needRoot(t)
	c := newContainerd(t)
	if status := c.delete("-bundle", c.bundle, "delete"); status != 137 {
		t.Errorf("exit status %d", status)
	}
}

// The bundle is the one that containerd names, wherever the program is started, and
// whatever it is called; without a name it is the working directory.
func TestDeleteNamedBundle(t *testing.T) {
	needRoot(t)
	c := newContainerd(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	for bundle, status := range map[string]uint32{c.bundle: 7, other: 9} {
		task := fmt.Sprintf(`{"Pid":1,"Status":%d,"ExitedAt":"2026-01-02T03:04:05Z"}`, status)
		if err := os.WriteFile(filepath.Join(bundle, "task.json"), []byte(task), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		directory string
		arguments []string
		status    uint32
	}{
		{c.bundle, []string{"-bundle", c.bundle, "delete"}, 7},
		{other, []string{"-bundle", c.bundle, "delete"}, 7},
		{c.bundle, []string{"-bundle", other, "delete"}, 9},
		{filepath.Dir(other), []string{"-bundle", "other", "delete"}, 9},
		{c.bundle, []string{"delete"}, 7},
		{other, []string{"delete"}, 9},
	} {
		c.directory = test.directory
		if status := c.delete(test.arguments...); status != test.status {
			t.Errorf("%v in %s: exit status %d, not %d", test.arguments, test.directory, status, test.status)
		}
	}
}

// Each process of the shim, and each VM's agent, sets up what it is linked with, and gRPC, which neither
// speaks, would be a third of that.
func TestWithoutGRPC(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for program, without := range map[string][]string{
		"./cmd/containerd-shim-msb-v2": {"google.golang.org/grpc", "k8s.io/cri-api/pkg/apis/runtime/v1"},
		"./cmd/msb-agent":              {"google.golang.org/grpc", "net/http", "crypto/tls", "html/template"},
	} {
		recipes := 0
		for line := range strings.Lines(string(makefile)) {
			if !strings.Contains(line, "STEP") || !strings.Contains(line, program) {
				continue
			}
			if recipes++; !strings.Contains(line, "$(NO_GRPC)") {
				t.Errorf("%s is built with gRPC: %s", program, line)
			}
		}
		if recipes == 0 {
			t.Errorf("the Makefile does not build %s", program)
		}
		list := exec.CommandContext(t.Context(), "go", "list", "-tags", "no_grpc", "-deps", program)
		list.Dir = "../.."
		packages, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		linked := strings.Fields(string(packages))
		if !slices.Contains(linked, "github.com/containerd/ttrpc") {
			t.Fatalf("these are not the packages of %s: %q", program, linked)
		}
		for _, name := range without {
			if slices.Contains(linked, name) {
				t.Errorf("%s is linked with %s: \"go list -deps\" tells who imports it", program, name)
			}
		}
	}
}

// delete cleans up a bundle and returns the exit status.
func (c *containerd) delete(arguments ...string) (status uint32) {
	c.t.Helper()
	stdout, err := c.shim(nil, arguments...)
	if err != nil {
		c.t.Fatal(err)
	}
	var response taskapi.DeleteResponse
	if err := proto.Unmarshal(stdout, &response); err != nil || response.GetExitedAt() == nil {
		c.t.Errorf("delete: %v, %v", &response, err)
	}
	return response.GetExitStatus()
}

func TestVersion(t *testing.T) {
	c := newContainerd(t)
	stdout, err := c.shim(nil, "-v")
	if err != nil || !strings.Contains(string(stdout), "Version:") {
		t.Errorf("-v: %q, %v", stdout, err)
	}
	stdout, err = c.shim(nil, "-info")
	var info types.RuntimeInfo
	if err != nil || proto.Unmarshal(stdout, &info) != nil || info.GetName() != manager.Name {
		t.Errorf("-info: %v, %v", &info, err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a mount namespace: run it as root")
	}
}

// As soon as a shim has answered that it ends, another of the same name can start: a client
// that has deleted a container makes one of its name at once. What the first still does, here for
// a collector of traces that answers nothing, takes nothing from the second.
func TestStartAgainAtOnce(t *testing.T) {
	needRoot(t)
	collector, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+collector.Addr().String())
	c := newContainerd(t)
	var earlier []*ttrpc.Client
	var last *ttrpc.Client
	var address string
	for range 10 {
		params := &bootapi.BootstrapParams{InstanceID: id, Namespace: namespace, ContainerdGrpcAddress: c.socket}
		var result bootapi.BootstrapResult
		if err := proto.Unmarshal(c.start(marshal(t, params)), &result); err != nil {
			t.Fatal(err)
		}
		address = result.GetAddress()
		last = dial(t, address)
		connect(t, last, "containerd.task.v3.Task")
		if len(earlier) == 9 {
			break
		}
		if err := last.Call(t.Context(), "containerd.task.v3.Task", "Shutdown", &taskapi.ShutdownRequest{ID: id}, new(emptypb.Empty)); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
			t.Error(err)
		}
		earlier = append(earlier, last)
		c.renewBundle()
	}
	for _, client := range earlier {
		if err := client.UserOnCloseWait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	connect(t, dial(t, address), "containerd.task.v3.Task")
	end(t, last, address)
}

// renewBundle is what containerd does between two containers of a name.
func (c *containerd) renewBundle() {
	c.t.Helper()
	if err := errors.Join(os.RemoveAll(c.bundle), os.Mkdir(c.bundle, 0o700), unix.Mkfifo(filepath.Join(c.bundle, "log"), 0o600)); err != nil {
		c.t.Fatal(err)
	}
}
