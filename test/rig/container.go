package rig

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// Spec is the configuration of a container that runs one of test/fake's programs.
func Spec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace},
			{Type: specs.PIDNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
}

// Annotations of containerd's CRI plugin.
const (
	containerType = "io.kubernetes.cri.container-type"
	sandboxID     = "io.kubernetes.cri.sandbox-id"
)

// InPod makes a configuration that of a pod's sandbox container, or of one that joins it.
func InPod(spec *specs.Spec, pod string, sandbox bool) *specs.Spec {
	kind := "container"
	if sandbox {
		kind = "sandbox"
	}
	spec.Annotations = map[string]string{containerType: kind, sandboxID: pod}
	return spec
}

// Bundle makes a bundle with a configuration and an empty root file system.
func (r *Rig) Bundle(spec *specs.Spec) string {
	r.T.Helper()
	bundle := r.T.TempDir()
	data, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755)
	}
	if err == nil {
		err = config.SaveOptions(bundle, Options(r))
	}
	if err != nil {
		r.T.Fatal(err)
	}
	return bundle
}

// Options are the runtime's for a request: a configuration that names its kit.
func Options(r *Rig) *anypb.Any {
	r.T.Helper()
	options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("kit = \"/kit\"\n" + r.Config)})
	if err != nil {
		r.T.Fatal(err)
	}
	return options
}

// Request is one to create a container.
func (r *Rig) Request(id string, spec *specs.Spec) *taskapi.CreateTaskRequest {
	r.T.Helper()
	return &taskapi.CreateTaskRequest{ID: id, Bundle: r.Bundle(spec), Options: Options(r)}
}

// Run creates and starts a container.
func (r *Rig) Run(id string, args ...string) {
	r.T.Helper()
	if _, err := r.Tasks.Create(context.Background(), r.Request(id, Spec(args...))); err != nil {
		r.T.Fatalf("creating %s: %v", id, err)
	}
	if _, err := r.Tasks.Start(context.Background(), &taskapi.StartRequest{ID: id}); err != nil {
		r.T.Fatalf("starting %s: %v", id, err)
	}
}
