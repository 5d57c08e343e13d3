package containerd

import (
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
)

// TestClient runs the tests of containerd's client. -short has those of a task's life and
// of a containerd that starts again, all of which pass. Most of the others are not about
// the runtime, or are more of the same.
func TestClient(t *testing.T) {
	suite{
		name: "client", variants: expect.Single, limit: 60 * time.Minute,
		arguments: []string{"-no-criu", "-test.root"},
		short: "^(TestContainer(Start|Output|Wait|Exec|Kill|CloseIO|Pids|Attach|Hostname|Metrics|PTY|NoSTDIN|LargeExecArgs|Hook)|" +
			"TestTask(ForceDelete|Resize|Spec)|TestProcessForceDelete|TestDelete(RunningContainer|ContainerExecCreated)|TestRuntimeInfo|" +
			"TestShimDoesNotLeak(Pipes|Sockets)|TestDaemon(Restart|RestartWithRunningShim|ReconnectsToShimIOPipesOnRestart))$",
	}.test(t)
}
