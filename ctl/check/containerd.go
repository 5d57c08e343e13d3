package check

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

// runtimeName is this runtime's, for containerd's clients.
const runtimeName = "io.containerd.msb.v2"

// lookAtContainerd asks the one at a socket's path. pid is its process, 0 if there is none.
func lookAtContainerd(ctx context.Context, address string) (c Containerd, pid int) {
	c.Address = address
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if pid, c.Err = survey.PeerOf(ctx, address); c.Err != nil {
		return c, 0
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.Err = err
		return c, 0
	}
	defer conn.Close()
	answer, err := version.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		c.Err = fmt.Errorf("%s does not answer as containerd does: %w", address, errgrpc.ToNative(err))
		return c, 0
	}
	c.Version = answer.GetVersion()
	plugins := introspection.NewIntrospectionClient(conn)
	c.RuntimeVersion, c.Runtime = askForRuntime(ctx, plugins, pid)
	c.Snapshotters, c.CRI = askForPlugins(ctx, plugins)
	if c.CRI {
		c.Handlers = askForHandlers(ctx, conn)
	}
	return c, pid
}

// askForRuntime has containerd run the shim, for what that says of itself. Before 2.0 it
// cannot be asked: then the shim is looked for where containerd does, and its version is not known.
func askForRuntime(ctx context.Context, plugins introspection.IntrospectionClient, pid int) (version string, err error) {
	options, err := typeurl.MarshalAnyToProto(&types.RuntimeRequest{RuntimePath: runtimeName})
	if err != nil {
		return "", err
	}
	answer, err := plugins.PluginInfo(ctx, &introspection.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "task", Options: options})
	if status.Code(err) == codes.Unimplemented {
		return askShim(ctx, pid)
	}
	if err != nil {
		return "", errgrpc.ToNative(err)
	}
	info := new(types.RuntimeInfo)
	if err := typeurl.UnmarshalTo(answer.GetExtra(), info); err != nil {
		return "", err
	}
	return info.GetVersion().GetVersion(), nil
}

// askShim runs the shim that is in the PATH of a process.
func askShim(ctx context.Context, pid int) (version string, err error) {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", err
	}
	for variable := range strings.SplitSeq(string(environ), "\x00") {
		path, found := strings.CutPrefix(variable, "PATH=")
		if !found {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if printed, err := output(ctx, filepath.Join(dir, shimProgram), "-v"); err == nil {
				return versionIn(printed), nil
			}
		}
	}
	return "", fmt.Errorf("%s is in no directory of containerd's PATH", shimProgram)
}

// versionIn is the version in what a shim prints of itself.
func versionIn(printed string) string {
	for line := range strings.Lines(printed) {
		if v, found := strings.CutPrefix(strings.TrimSpace(line), "Version:"); found {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// askForPlugins is which snapshotters work, and whether there is the CRI plugin.
func askForPlugins(ctx context.Context, plugins introspection.IntrospectionClient) (snapshotters []string, cri bool) {
	answer, err := plugins.Plugins(ctx, &introspection.PluginsRequest{})
	if err != nil {
		return nil, false
	}
	for _, plugin := range answer.GetPlugins() {
		works := plugin.GetInitErr() == nil
		if works && plugin.GetType() == "io.containerd.snapshotter.v1" {
			snapshotters = append(snapshotters, plugin.GetID())
		}
		if works && plugin.GetType() == "io.containerd.grpc.v1" && plugin.GetID() == "cri" {
			cri = true
		}
	}
	slices.Sort(snapshotters)
	return snapshotters, cri
}

// askForHandlers is by which names Kubernetes' node can ask for this runtime.
func askForHandlers(ctx context.Context, conn grpc.ClientConnInterface) []string {
	answer, err := cri.NewRuntimeServiceClient(conn).Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return nil
	}
	return handlersIn(answer.GetInfo()["config"])
}

// handlersIn are the runtimes of msb in the CRI plugin's configuration, which it prints as JSON.
func handlersIn(text string) []string {
	var config struct {
		Containerd struct {
			Runtimes map[string]struct{ RuntimeType, RuntimePath string }
		}
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return nil
	}
	ours := config.Containerd.Runtimes
	maps.DeleteFunc(ours, func(_ string, r struct{ RuntimeType, RuntimePath string }) bool {
		return r.RuntimeType != runtimeName && filepath.Base(r.RuntimeType) != shimProgram && filepath.Base(r.RuntimePath) != shimProgram
	})
	return slices.Sorted(maps.Keys(ours))
}
