package task

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// sandboxCalls are those that name a sandbox.
func sandboxCalls(s *Service, id string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Start": func(ctx context.Context) error {
			_, err := s.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: id})
			return err
		},
		"Stop": func(ctx context.Context) error {
			_, err := s.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: id})
			return err
		},
		"Wait": func(ctx context.Context) error {
			_, err := s.WaitSandbox(ctx, &sandboxapi.WaitSandboxRequest{SandboxID: id})
			return err
		},
		"Status": func(ctx context.Context) error {
			_, err := s.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: id})
			return err
		},
		"Ping": func(ctx context.Context) error {
			_, err := s.PingSandbox(ctx, &sandboxapi.PingRequest{SandboxID: id})
			return err
		},
		"Metrics": func(ctx context.Context) error {
			_, err := s.SandboxMetrics(ctx, &sandboxapi.SandboxMetricsRequest{SandboxID: id})
			return err
		},
	}
}

func TestNoSandbox(t *testing.T) {
	s, _ := service(t)
	s.pod = &pod{id: "p", exited: make(chan struct{})}
	for name, call := range sandboxCalls(s, "another") {
		if err := call(t.Context()); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.UpdateSandbox(t.Context(), &sandboxapi.UpdateSandboxRequest{SandboxID: "p"}); !errdefs.IsNotImplemented(err) {
		t.Errorf("Update: %v", err)
	}
}

func TestCreateSandboxRefused(t *testing.T) {
	hostNetwork := &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
		NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE},
	}}}
	for name, c := range map[string]struct {
		id      string
		pod     *pod
		options any
		is      func(error) bool
	}{
		"another one":          {"p", &pod{id: "p"}, &cri.PodSandboxConfig{}, errdefs.IsAlreadyExists},
		"a path for an id":     {"../p", nil, &cri.PodSandboxConfig{}, errdefs.IsInvalidArgument},
		"the host's network":   {"p", nil, hostNetwork, errdefs.IsInvalidArgument},
		"another type's":       {"p", nil, &cri.ContainerConfig{}, errdefs.IsInvalidArgument},
		"a name as long as it": {strings.Repeat("p", 300), nil, &cri.PodSandboxConfig{}, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := service(t)
			s.pod = c.pod
			bundle := t.TempDir()
			if err := config.SaveOptions(bundle, nil); err != nil {
				t.Fatal(err)
			}
			options, err := typeurl.MarshalAnyToProto(c.options)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.CreateSandbox(t.Context(), &sandboxapi.CreateSandboxRequest{SandboxID: c.id, BundlePath: bundle, Options: options})
			if !c.is(err) {
				t.Errorf("CreateSandbox = %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(bundle, "msb*")); len(left) > 0 || s.sandbox != nil || s.pod != c.pod {
				t.Errorf("left: %v, %v, %v", left, s.sandbox, s.pod)
			}
		})
	}
}

// A sandbox that has ended is not started, may be stopped again, and says when it ended.
func TestEndedSandbox(t *testing.T) {
	s, _ := service(t)
	s.pod = &pod{id: "p", exited: make(chan struct{}), createdAt: time.Now()}
	calls := sandboxCalls(s, "p")
	if err := calls["Start"](t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start without a VM: %v", err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := calls["Wait"](waiting); err == nil {
		t.Error("Wait returned before the end")
	}
	for range 2 {
		if err := calls["Stop"](t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if err := calls["Wait"](t.Context()); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := s.markStarted(s.pod, 1); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stopped while it was being started: %v", err)
	}
	if err := calls["Start"](t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start after the end: %v", err)
	}
	status, err := s.SandboxStatus(t.Context(), &sandboxapi.SandboxStatusRequest{SandboxID: "p", Verbose: true})
	if err != nil || status.State != "SANDBOX_NOTREADY" || status.ExitedAt == nil || status.Info["info"] == "" {
		t.Errorf("Status = %v, %v", status, err)
	}
}

// Namespaces are those of processes that stand for the pod's own.
func TestJoined(t *testing.T) {
	s, _ := service(t)
	s.pod = &pod{id: "p", pid: 100, guestPid: 5}
	ended := &container{id: "ended", created: true, guestPid: 6}
	ended.pid.Store(101)
	s.containers["ended"] = ended
	for name, c := range map[string]struct {
		pid  string
		want string // empty: refused
	}{
		"the pod's":             {"100", "/proc/5/ns/ipc"},
		"one that has ended":    {"101", ""},
		"a process of the host": {"1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			text := `{"ociVersion":"1.1.0","root":{"path":"rootfs"},"process":{"args":["true"],"cwd":"/"},"linux":{"namespaces":[{"type":"network"},{"type":"mount"},{"type":"pid"},{"type":"uts"},{"type":"ipc","path":"/proc/` + c.pid + `/ns/ipc"}]}}`
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			plan, err := spec.Load(bundle)
			if err != nil {
				t.Fatal(err)
			}
			joined, err := s.joined(new(sandbox.Sandbox), plan)
			if c.want == "" {
				if !errdefs.IsInvalidArgument(err) {
					t.Errorf("joined %v, %v", joined, err)
				}
			} else if joined[specs.IPCNamespace] != c.want {
				t.Errorf("joined %v, %v", joined, err)
			}
		})
	}
}
