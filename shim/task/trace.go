package task

import (
	"context"
	"time"

	"github.com/containerd/log"
)

// phase logs, at debug level, how long a step of a container's life took:
//
//	defer phase(ctx, "boot")()
func phase(ctx context.Context, name string) func() {
	start := time.Now()
	return func() {
		log.G(ctx).WithField("phase", name).WithField("took", time.Since(start).Round(10*time.Microsecond)).Debug("trace")
	}
}
