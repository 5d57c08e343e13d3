package trace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
)

const (
	theirTrace  = "0af7651916cd43dd8448eb211c80319c"
	theirSpan   = "b7ad6b7169203331"
	traceparent = "00-" + theirTrace + "-" + theirSpan + "-01"
)

var errSecret = fmt.Errorf("mount /srv/secret: %w", errdefs.ErrInvalidArgument)

// called is the context of a call that a traced client makes.
func called(t *testing.T, header string) context.Context {
	metadata := ttrpc.MD{}
	if header != "" {
		metadata.Set("traceparent", header)
	}
	return ttrpc.WithMetadata(t.Context(), metadata)
}

// work is a method with phases: of a part of it, of one that fails, and of calls to the guest.
func work(ctx context.Context, unmarshal func(any) error) (any, error) {
	if err := unmarshal(&taskapi.ExecProcessRequest{ID: "box", ExecID: "x"}); err != nil {
		return nil, err
	}
	Since(ctx, "before", time.Now().Add(-time.Second))
	inner, outer := Begin(ctx, "outer")
	_ = func() (err error) {
		_, phase := Begin(inner, "inner")
		defer phase.End(&err)
		return errSecret
	}()
	Guest(inner, "Create")(nil)
	outer.End(nil)
	return nil, errgrpc.ToGRPC(errSecret)
}

func serve(t *testing.T, handler http.Handler) Target {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return Target{URL: server.URL + "/v1/traces", Headers: map[string]string{"X-Token": "t"}}
}

// What a call does is a tree of spans below its caller's, as the library of OTLP reads it.
func TestSpans(t *testing.T) {
	var kept collector.Collector
	var token string
	target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token = r.Header.Get("X-Token")
		kept.ServeHTTP(w, r)
	}))
	tracer := Open(target, "space", "pod", "v1")
	methods := tracer.Traced("task", map[string]ttrpc.Method{"Exec": work, "Stats": work})
	unmarshal := func(any) error { return nil }
	notSampled := strings.TrimSuffix(traceparent, "1") + "0"
	for _, call := range []struct{ method, header string }{{"Exec", traceparent}, {"Stats", traceparent}, {"Exec", notSampled}} {
		if _, err := methods[call.method](called(t, call.header), unmarshal); err == nil {
			t.Error("the call's error is lost")
		}
	}
	tracer.Close(t.Context())
	if token != "t" {
		t.Errorf("the header is %q", token)
	}
	spans := map[string]collector.Span{}
	for _, s := range kept.Spans() {
		if s.Trace != theirTrace || s.Ended.Before(s.Began) || s.Flags&flagSampled == 0 {
			t.Errorf("a span of trace %s with flags %x from %v to %v", s.Trace, s.Flags, s.Began, s.Ended)
		}
		if s.Attributes["container.id"] != "box" || s.Attributes["msb.exec.id"] != "x" || s.Resource["msb.sandbox.id"] != "pod" || s.Resource["containerd.namespace"] != "space" {
			t.Errorf("%s is of %v in %v", s.Name, s.Attributes, s.Resource)
		}
		if strings.Contains(fmt.Sprint(s), "secret") {
			t.Errorf("a path is told: %v", s)
		}
		if _, twice := spans[s.Name]; twice {
			t.Errorf("%s is there twice", s.Name)
		}
		spans[s.Name] = s
	}
	for _, want := range []struct {
		name, parent string
		kind         tracepb.Span_SpanKind
		failed       string
	}{
		{"task/Exec", "", tracepb.Span_SPAN_KIND_SERVER, "invalid argument"},
		{"before", "task/Exec", tracepb.Span_SPAN_KIND_INTERNAL, ""},
		{"outer", "task/Exec", tracepb.Span_SPAN_KIND_INTERNAL, ""},
		{"inner", "outer", tracepb.Span_SPAN_KIND_INTERNAL, "invalid argument"},
		{"guest Create", "outer", tracepb.Span_SPAN_KIND_CLIENT, ""},
	} {
		s, found := spans[want.name]
		parent := theirSpan
		if want.parent != "" {
			parent = spans[want.parent].ID
		}
		if !found || s.Parent != parent || s.Kind != want.kind || s.Failed != want.failed || (s.Flags&flagRemote != 0) != (want.parent == "") {
			t.Errorf("%s: %+v, want %+v below %s", want.name, s, want, parent)
		}
	}
	if len(spans) != 5 {
		t.Errorf("there are others: %v", spans)
	}
}

// A call whose client is in no trace begins one.
func TestSpansOfNoTrace(t *testing.T) {
	var kept collector.Collector
	tracer := Open(serve(t, &kept), "space", "pod", "v1")
	for range 2 {
		_, _ = tracer.Traced("task", map[string]ttrpc.Method{"Exec": work})["Exec"](t.Context(), func(any) error { return nil })
	}
	tracer.Close(t.Context())
	traces := map[string]int{}
	for _, s := range kept.Spans() {
		traces[s.Trace]++
		if s.Name == "task/Exec" && s.Parent != "" {
			t.Errorf("the call has the parent %s", s.Parent)
		}
	}
	if len(traces) != 2 {
		t.Errorf("there are %d traces of two calls: %v", len(traces), traces)
	}
}

func TestParseParent(t *testing.T) {
	for header, want := range map[string]bool{
		traceparent:                       true,
		traceparent + "-later":            false,
		"01" + traceparent[2:] + "-later": true,
		"01" + traceparent[2:] + "later":  false,
		"ff" + traceparent[2:]:            false,
		"0x" + traceparent[2:]:            false,
		strings.ToUpper(traceparent):      false,
		traceparent[:54]:                  false,
		"":                                false,
		strings.Replace(traceparent, theirTrace, strings.Repeat("0", 32), 1): false,
		strings.Replace(traceparent, theirSpan, strings.Repeat("0", 16), 1):  false,
		strings.Replace(traceparent, "-b7", "_b7", 1):                        false,
	} {
		if p, ok := parseParent(header); ok != want || ok && !p.sampled {
			t.Errorf("%q: %v, %v", header, p, ok)
		}
	}
	if p, ok := parseParent(strings.TrimSuffix(traceparent, "1") + "2"); !ok || p.sampled {
		t.Errorf("not sampled: %v, %v", p, ok)
	}
}

// Without a collector a phase costs nothing.
func TestOff(t *testing.T) {
	var tracer *Tracer
	methods := map[string]ttrpc.Method{"Exec": nil}
	tracer.Traced("task", methods)["here"] = nil
	if _, same := methods["here"]; !same {
		t.Error("the table of methods is another")
	}
	tracer.Close(t.Context())
	level := log.GetLevel()
	defer func() { _ = log.SetLevel(level.String()) }()
	if err := log.SetLevel("info"); err != nil {
		t.Fatal(err)
	}
	ctx, began := log.WithLogger(t.Context(), log.L), time.Now()
	if n := testing.AllocsPerRun(100, func() {
		var err error
		inner, phase := Begin(ctx, "boot")
		Since(inner, "before", began)
		Guest(inner, "Create")(err)
		phase.End(&err)
	}); n != 0 {
		t.Errorf("a phase costs %v allocations", n)
	}
}

func TestClass(t *testing.T) {
	for want, err := range map[string]error{
		"not found":                 fmt.Errorf("x: %w", errdefs.ErrNotFound),
		"unavailable":               errgrpc.ToGRPC(fmt.Errorf("x: %w", errdefs.ErrUnavailable)),
		"unknown":                   errors.New("/srv/secret"),
		"context canceled":          context.Canceled,
		"context deadline exceeded": fmt.Errorf("x: %w", context.DeadlineExceeded),
	} {
		if got := classOf(err); got != want {
			t.Errorf("%v is %q, not %q", err, got, want)
		}
	}
}

func BenchmarkOff(b *testing.B) {
	ctx := log.WithLogger(b.Context(), log.L)
	b.ReportAllocs()
	for b.Loop() {
		_, phase := Begin(ctx, "boot")
		phase.End(nil)
	}
}
