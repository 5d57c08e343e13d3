package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// warmID is the id of the container that warms a guest. It is gone before there is another.
const warmID = "msb-warm"

// warm has the guest make a container of nothing but the guest's own disk, and delete it. What
// it reads of the disk and has to learn for its first container it has then: crun's and the
// kernel's code for namespaces, mounts and control groups.
func (s *Sandbox) warm(ctx context.Context) (err error) {
	ctx = namespaces.WithNamespace(ctx, warmID) // the guest's task service wants one
	configuration, err := json.Marshal(warmSpec())
	if err != nil {
		return err
	}
	bundle, err := s.Guest.CreateBundle(ctx, &api.CreateBundleRequest{Container: warmID, Spec: configuration})
	if err != nil {
		return fmt.Errorf("warming the guest: %w", err)
	}
	runcOptions, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: api.Crun})
	if err != nil {
		return err
	}
	_, err = s.Guest.Create(ctx, &taskapi.CreateTaskRequest{
		ID: warmID, Bundle: bundle, Options: runcOptions,
	})
	if err == nil {
		_, err = s.Guest.Delete(ctx, &taskapi.DeleteRequest{ID: warmID})
	}
	if _, removeErr := s.Guest.RemoveBundle(ctx, &api.RemoveBundleRequest{Container: warmID}); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	if err != nil {
		return fmt.Errorf("warming the guest: %w", err)
	}
	return nil
}

// warmSpec is a container's that never starts, with what most containers have. A root that is
// the guest's own cannot be a container's (pivot_root(2)).
func warmSpec() *specs.Spec {
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"}
	safe := []string{"nosuid", "noexec", "nodev"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "."}, // the bundle, which goes with it
		Process: &specs.Process{
			Args: []string{api.Crun, "--version"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
		},
		Mounts: []specs.Mount{
			{Destination: filepath.Dir(api.Crun), Type: "bind", Source: filepath.Dir(api.Crun), Options: []string{"bind", "ro"}},
			{Destination: "/proc", Type: "proc", Source: "proc", Options: safe},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append([]string{"mode=1777", "size=65536k"}, safe...)},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safe},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"ro"}, safe...)},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + warmID,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
