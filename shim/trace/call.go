package trace

import (
	"context"
	"time"

	"github.com/containerd/ttrpc"
)

// silent are calls of which there is no span. They answer from the shim's record, or wait;
// some are made every few seconds for as long as a container runs.
var silent = map[string]bool{
	"State": true, "Wait": true, "Pids": true, "Connect": true, "Stats": true,
	"Platform": true, "WaitSandbox": true, "SandboxStatus": true, "PingSandbox": true, "SandboxMetrics": true,
}

// Traced is a service's table of methods in which each call is a span. A nil Tracer returns
// the table that it was given.
func (t *Tracer) Traced(service string, methods map[string]ttrpc.Method) map[string]ttrpc.Method {
	if t == nil {
		return methods
	}
	traced := make(map[string]ttrpc.Method, len(methods))
	for name, method := range methods {
		if !silent[name] {
			method = t.traced(service+"/"+name, method)
		}
		traced[name] = method
	}
	return traced
}

func (t *Tracer) traced(name string, method ttrpc.Method) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (_ any, err error) {
		ctx, span := t.begin(ctx, name)
		defer span.end(&err)
		return method(ctx, func(request any) error {
			err := unmarshal(request)
			span.identify(request)
			return err
		})
	}
}

// begin begins the span of a call: in the trace that its caller names, as containerd's client
// of a shim does, or in a new one. A trace that is not sampled gets none.
func (t *Tracer) begin(ctx context.Context, name string) (context.Context, *span) {
	s := &span{tracer: t, id: newSpanID(), kind: server, name: name, method: name, began: time.Now()}
	if from, ok := parentOf(ctx); !ok {
		s.trace = newTraceID()
	} else if s.trace, s.parent, s.remote = from.trace, from.span, true; !from.sampled {
		return ctx, nil
	}
	return context.WithValue(ctx, spanKey{}, s), s
}

// parentOf is the caller's span, from the metadata of its call.
func parentOf(ctx context.Context) (parent, bool) {
	metadata, _ := ttrpc.GetMetadata(ctx)
	values, _ := metadata.Get("traceparent")
	if len(values) != 1 {
		return parent{}, false
	}
	return parseParent(values[0])
}

// identify notes which container and exec a request is about.
func (s *span) identify(request any) {
	if s == nil {
		return
	}
	if r, ok := request.(interface{ GetID() string }); ok {
		s.container = r.GetID()
	}
	if r, ok := request.(interface{ GetExecID() string }); ok {
		s.exec = r.GetExecID()
	}
}
