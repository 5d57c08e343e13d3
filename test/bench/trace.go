package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// The trace that the bench's own calls to containerd are in.
const (
	benchTrace = "6d73622d62656e63682d747261636521"
	benchSpan  = "6d73622d62656e63"
)

// collectTraces has containerd and its shims send traces. It is called before there is one.
func collectTraces() error {
	return errors.Join(
		os.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", harness.TracesEndpoint),
		os.Setenv("OTEL_BSP_SCHEDULE_DELAY", "200"), // milliseconds
	)
}

// oneTrace has a client's trace go through containerd, the shim and the guest: a container
// starts and ends. It prints the spans, and draws those of the start.
func oneTrace(host *harness.Host) (err error) {
	kept, stop, err := host.CollectTraces()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, cancel := host.Context()
	defer cancel()
	traced := metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+benchTrace+"-"+benchSpan+"-01")
	c, err := start(traced, host, "web-1", harness.Runtime, cio.NullIO, nil, "sleep", "1000")
	if err != nil {
		return err
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	rows := settled(ctx, kept)
	for _, r := range rows {
		fmt.Printf("%8s %8s  %-11s %s%s\n", show(r.Began.Sub(rows[0].Began)), show(r.Ended.Sub(r.Began)), r.of(), strings.Repeat("  ", r.depth), r.Name)
	}
	if *plotFile == "" {
		return nil
	}
	return os.WriteFile(*plotFile, []byte(drawTrace(rows)), 0o644)
}

// quiet is how long no span has to come before all have.
const quiet = 5 * time.Second

// settled are the spans of the bench's trace, when no more come.
func settled(ctx context.Context, kept *collector.Collector) []row {
	for {
		changed := kept.Changed()
		select {
		case <-changed:
		case <-time.After(quiet):
			return rowsOf(kept.Spans(), benchSpan, 0)
		case <-ctx.Done():
			return nil
		}
	}
}

// A row is a span, and how many are above it.
type row struct {
	collector.Span
	depth int
}

const shimService = "containerd-shim-msb"

// of is whose span it is, in a word.
func (r row) of() string {
	switch {
	case r.Resource["service.name"] != shimService:
		return "containerd"
	case r.Kind == tracepb.Span_SPAN_KIND_CLIENT:
		return "guest"
	}
	return "shim"
}

// rowsOf are the spans below one, as a tree: the shim's, and those of containerd that led to
// them.
func rowsOf(spans []collector.Span, parent string, depth int) (rows []row) {
	for _, s := range spans {
		if s.Trace != benchTrace || s.Parent != parent {
			continue
		}
		below := rowsOf(spans, s.ID, depth+1)
		if len(below) > 0 || s.Resource["service.name"] == shimService {
			rows = append(append(rows, row{s, depth}), below...)
		}
	}
	return rows
}
