package rpc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/test/collector"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	callersSpan  = "b7ad6b7169203331"
)

// live has a container created, started, killed and deleted by a client that is in a trace,
// and ends the shim.
func (s *world) live(t *testing.T) {
	t.Helper()
	c := serve(t, func(server *ttrpc.Server) {
		if err := s.services.RegisterTTRPC(server); err != nil {
			t.Fatal(err)
		}
	})
	metadata := ttrpc.MD{}
	metadata.Set("traceparent", "00-"+callersTrace+"-"+callersSpan+"-01")
	ctx := ttrpc.WithMetadata(t.Context(), metadata)
	dir := t.TempDir()
	if err := count.Open(dir); err != nil {
		t.Fatal(err)
	}
	for _, call := range []struct {
		method            string
		request, response any
	}{
		{"Create", s.Request("box", rig.Spec("sleep")), new(taskapi.CreateTaskResponse)},
		{"State", &taskapi.StateRequest{ID: "box"}, new(taskapi.StateResponse)},
		{"Start", &taskapi.StartRequest{ID: "box"}, new(taskapi.StartResponse)},
		{"Kill", &taskapi.KillRequest{ID: "box", Signal: 9}, new(emptypb.Empty)},
		{"Wait", &taskapi.WaitRequest{ID: "box"}, new(taskapi.WaitResponse)},
		{"Delete", &taskapi.DeleteRequest{ID: "box"}, new(taskapi.DeleteResponse)},
	} {
		if err := c.Call(ctx, taskServices[0], call.method, call.request, call.response); err != nil {
			t.Fatalf("%s: %v", call.method, err)
		}
	}
	counts, err := count.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, phase := range counts.Phases {
		if names = append(names, phase.Name); phase.Count != 1 {
			t.Errorf("the phase %s was counted %d times", phase.Name, phase.Count)
		}
	}
	const phases = "shim start, share, network, VMM start, guest boot, hand over, start, drain, delete in the guest, remove, leave"
	if got := strings.Join(names, ", "); got != phases {
		t.Errorf("counted were %s", got)
	}
	if err := c.Call(ctx, taskServices[0], "Start", &taskapi.StartRequest{ID: "none"}, new(taskapi.StartResponse)); err == nil {
		t.Error("what is not there was started")
	}
	s.end()
}

// tree is what is below a span, a line for each, with what became of it.
func tree(spans []collector.Span, parent, indent string) string {
	var b strings.Builder
	for _, s := range spans {
		if s.Parent != parent {
			continue
		}
		words := strings.Fields(s.Name + " " + s.Failed + " " + s.Attributes["container.id"])
		fmt.Fprintf(&b, "%s%s\n%s", indent, strings.Join(words, " "), tree(spans, s.ID, indent+"  "))
	}
	return b.String()
}

// A container's life is one trace, below the spans of the calls' client. What only asks is not
// in it.
func TestTrace(t *testing.T) {
	var kept collector.Collector
	tracesTimeout = time.Minute
	defer func() { tracesTimeout = time.Second }()
	server := httptest.NewServer(&kept)
	defer server.Close()
	openTraced(t, trace.Open(trace.Target{URL: server.URL + "/v1/traces"}, "test", "box", "v1")).live(t)
	const want = `containerd.task.v3.Task/Create box
  shim start box
  share box
  network box
  VMM start box
  guest boot box
    guest Start box
  hand over box
    guest CreateBundle box
    guest Create box
containerd.task.v3.Task/Start box
  start box
    guest Start box
containerd.task.v3.Task/Kill box
  guest Kill box
containerd.task.v3.Task/Delete box
  drain box
  delete in the guest box
    guest Delete box
  remove box
    guest RemoveBundle box
  leave box
containerd.task.v3.Task/Start not found none
`
	spans := kept.Spans()
	for _, s := range spans {
		if s.Trace != callersTrace {
			t.Errorf("%s is of the trace %s", s.Name, s.Trace)
		}
	}
	if got := tree(spans, callersSpan, ""); got != want {
		t.Errorf("the spans are\n%s\nwant\n%s", got, want)
	}
}

// A collector that hangs holds up neither a call nor, for longer than it may, the shim's end.
func TestTraceHung(t *testing.T) {
	hung := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hung }))
	defer server.Close()
	defer close(hung)
	openTraced(t, trace.Open(trace.Target{URL: server.URL}, "test", "box", "v1")).live(t)
}

// A pod of the Sandbox API is traced as a container is. Its spans name it as their shim's
// sandbox.
func TestTraceOfPod(t *testing.T) {
	var kept collector.Collector
	tracesTimeout = time.Minute
	defer func() { tracesTimeout = time.Second }()
	server := httptest.NewServer(&kept)
	defer server.Close()
	s := openTraced(t, trace.Open(trace.Target{URL: server.URL + "/v1/traces"}, "test", "pod", "v1"))
	c := s.serve()
	for _, call := range []struct {
		method            string
		request, response any
	}{
		{"CreateSandbox", &sandboxapi.CreateSandboxRequest{SandboxID: "pod", BundlePath: s.bundle}, new(sandboxapi.CreateSandboxResponse)},
		{"StartSandbox", &sandboxapi.StartSandboxRequest{SandboxID: "pod"}, new(sandboxapi.StartSandboxResponse)},
		{"PingSandbox", &sandboxapi.PingRequest{SandboxID: "pod"}, new(sandboxapi.PingResponse)},
		{"StopSandbox", &sandboxapi.StopSandboxRequest{SandboxID: "pod"}, new(sandboxapi.StopSandboxResponse)},
	} {
		if err := c.call(sandboxService, call.method, call.request, call.response); err != nil {
			t.Fatalf("%s: %v", call.method, err)
		}
	}
	s.end()
	const want = `containerd.runtime.sandbox.v1.Sandbox/CreateSandbox
containerd.runtime.sandbox.v1.Sandbox/StartSandbox
  network
  VMM start
  guest boot
    guest Start
    guest SetNetwork
  guest CreatePod
containerd.runtime.sandbox.v1.Sandbox/StopSandbox
`
	spans := kept.Spans()
	for _, s := range spans {
		if s.Resource["msb.sandbox.id"] != "pod" {
			t.Errorf("%s is of %v", s.Name, s.Resource)
		}
	}
	if got := tree(spans, "", ""); got != want {
		t.Errorf("the spans are\n%s\nwant\n%s", got, want)
	}
}
