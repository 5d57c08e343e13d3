// Package trace tells, in the log at debug level, how long each phase of a
// container's life took.
package trace

import (
	"context"
	"time"

	"github.com/containerd/log"
)

// Phase is for the phase of a function:
//
//	defer trace.Phase(ctx, "boot")()
func Phase(ctx context.Context, name string) (end func()) {
	start := time.Now()
	return func() { Since(ctx, name, start) }
}

// Since is for a phase that began elsewhere and ends now.
func Since(ctx context.Context, name string, start time.Time) {
	log.G(ctx).WithField("phase", name).WithField("took", time.Since(start).Round(10*time.Microsecond)).Debug("trace")
}
