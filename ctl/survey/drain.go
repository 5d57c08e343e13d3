package survey

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// A Drain is what became of spares that were to end.
type Drain struct {
	// Ended are those that have, Used those that became a container's before, and Left those
	// that have not ended in time. Removed is what dead ones have left.
	Ended   []Spare `json:"ended"`
	Used    []Spare `json:"used"`
	Left    []Spare `json:"left"`
	Removed []Spare `json:"removed"`
}

// DrainSpares has spares below a root end, all at once, and waits for them until the context
// ends. What dead ones have left is taken away, whosoever they were.
func DrainSpares(ctx context.Context, root string, spares []Spare) (Drain, error) {
	d := Drain{Ended: []Spare{}, Used: []Spare{}, Left: []Spare{}, Removed: []Spare{}}
	errs := make([]error, len(spares))
	var wg sync.WaitGroup
	for i, s := range spares {
		if s.State != spare.Dead {
			wg.Go(func() { errs[i] = s.listed.End(ctx) })
		}
	}
	wg.Wait()
	var failed []error
	for i, s := range spares {
		switch err := errs[i]; {
		case s.State == spare.Dead:
			d.Removed = append(d.Removed, s)
		case err == nil:
			d.Ended = append(d.Ended, s)
		case errors.Is(err, spare.ErrUsed):
			d.Used = append(d.Used, s)
		case ctx.Err() != nil:
			d.Left = append(d.Left, s)
		default:
			d.Left = append(d.Left, s)
			failed = append(failed, fmt.Errorf("ending the spare %d: %w", s.Pid, err))
		}
	}
	if len(spares) > 0 {
		failed = append(failed, spare.Sweep(root))
	}
	return d, errors.Join(failed...)
}
