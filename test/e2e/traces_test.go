package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// The shim of a container sends the spans of the calls that are about it where the
// configuration says, and nothing of what is in the container. Those of the deletion have a second
// at the shim's end, which a slow machine may not keep: the tests of shim/rpc have them.
func TestTraces(t *testing.T) {
	nothingLeft(t)
	kept, stop, err := host.CollectTraces()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	const secret = "correcthorse"
	dir := filepath.Join(t.TempDir(), secret)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := spared(config(t, t.TempDir(), fmt.Sprintf("[tracing]\nendpoint = %q", harness.TracesEndpoint))[1],
		oci.WithEnv([]string{"PASSWORD=" + secret}), oci.WithAnnotations(map[string]string{"note": secret}),
		oci.WithMounts([]specs.Mount{bind(dir, "/"+secret, "ro")}))
	c := start(t, o, "sh", "-c", "exit 3 # "+secret)
	if code := await(t, c.exit); code != 3 {
		t.Errorf("the container exits with %d", code)
	}
	var spans []collector.Span
	waitFor(t, "the spans of the start", func() bool {
		spans = kept.Spans()
		return slices.ContainsFunc(spans, func(s collector.Span) bool { return strings.HasSuffix(s.Name, "Task/Start") })
	})
	if _, err := c.Delete(c.ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ parent, name string }{
		{"containerd.task.v3.Task/Create", "VMM start"},
		{"containerd.task.v3.Task/Create", "hand over"},
		{"hand over", "guest Create"},
		{"containerd.task.v3.Task/Start", "start"},
		{"start", "guest Start"},
	} {
		if !slices.ContainsFunc(spans, func(s collector.Span) bool {
			return s.Name == want.name && s.Attributes["container.id"] == c.ID() && s.Resource["msb.sandbox.id"] == c.ID() &&
				slices.ContainsFunc(spans, func(p collector.Span) bool { return p.ID == s.Parent && p.Name == want.parent })
		}) {
			t.Errorf("there is no span %q below %q", want.name, want.parent)
		}
	}
	if strings.Contains(fmt.Sprint(spans), secret) {
		t.Errorf("spans tell of what is in the container:\n%v", spans)
	}
}
