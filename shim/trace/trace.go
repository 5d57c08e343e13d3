// Package trace tells how long each phase of a container's life took: in the log at debug
// level, in the shim's counters, and, where a collector is named, as spans of OpenTelemetry, which follow the trace
// that containerd's call belongs to.
//
// A span is of a call that containerd makes (Tracer.Call), of a phase in it (Begin), or of a
// call to the guest (Guest). What happens in the guest is seen as the host's calls: no guest
// learns of a trace, and no guest's word is in one. A span has the ids of container and exec,
// and of an error its class. Texts of errors name paths, and stay in the log.
//
// Without a Tracer there are no spans: nothing is allocated, and nothing runs.
package trace

import (
	"context"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

// A Phase is a part of a container's life that has begun.
type Phase struct {
	ctx   context.Context
	name  string
	began time.Time
	span  *span
}

// Begin begins a phase, of which what is done with the context that it returns is a part:
//
//	ctx, phase := trace.Begin(ctx, "boot")
//	defer phase.End(&err)
func Begin(ctx context.Context, name string) (context.Context, Phase) {
	began := time.Now()
	ctx, span := child(ctx, internal, name, began)
	return ctx, Phase{ctx, name, began, span}
}

// End ends a phase. err is what became of it; nil if it cannot fail.
func (p Phase) End(err *error) {
	tell(p.ctx, p.name, p.began)
	p.span.end(err)
}

// Since is for a phase that began elsewhere and ends now.
func Since(ctx context.Context, name string, began time.Time) {
	tell(ctx, name, began)
	_, span := child(ctx, internal, name, began)
	span.end(nil)
}

// Guest begins a call to the guest. The caller calls end with what became of it. Nothing of
// it is in the log.
func Guest(ctx context.Context, name string) (end func(error)) {
	if of(ctx) == nil {
		return ignore
	}
	_, span := child(ctx, client, "guest "+name, time.Now())
	return func(err error) { span.end(&err) }
}

func ignore(error) {}

// tell counts a phase that ends now, and tells the log.
func tell(ctx context.Context, name string, began time.Time) {
	took := time.Since(began)
	count.AddPhase(name, took)
	entry := log.G(ctx)
	if !entry.Logger.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	entry.WithField("phase", name).WithField("took", took.Round(10*time.Microsecond)).Debug("trace")
}
