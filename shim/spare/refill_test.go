package spare

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
)

// A spare that does not boot is made again, later each time, a few times, and not any more when
// the shim's own VM has ended.
func TestAgain(t *testing.T) {
	failure := errors.New("no kernel")
	for name, test := range map[string]struct {
		succeeds int           // at which try; 0: never
		ends     time.Duration // when the VM does
		tries    []time.Duration
		want     error
	}{
		"it boots":              {1, time.Hour, []time.Duration{0}, nil},
		"it boots later":        {3, time.Hour, []time.Duration{0, time.Minute, 5 * time.Minute}, nil},
		"it never boots":        {0, time.Hour, []time.Duration{0, time.Minute, 5 * time.Minute, 21 * time.Minute}, failure},
		"the VM ends meanwhile": {0, 2 * time.Minute, []time.Duration{0, time.Minute}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.ends)
				defer cancel()
				begin := time.Now()
				var tries []time.Duration
				err := again(ctx, pauses, func() error {
					tries = append(tries, time.Since(begin))
					if len(tries) == test.succeeds {
						return nil
					}
					return failure
				})
				if !errors.Is(err, test.want) || !slices.Equal(tries, test.tries) {
					t.Errorf("%v after tries at %v, want %v, %v", err, tries, test.want, test.tries)
				}
			})
		})
	}
}

// What fails while the VM ends is not said to be tried again.
func TestAgainAtTheEnd(t *testing.T) {
	failure := errors.New("no kernel")
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := again(ctx, pauses, func() error {
		tries++
		cancel()
		return failure
	})
	if !errors.Is(err, failure) || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

// A shim whose configuration wants no spares any more makes none, and is told of no error.
func TestRefillOff(t *testing.T) {
	bundle := t.TempDir()
	options, err := anypb.New(&runtimeoptions.Options{ConfigBody: []byte("spare.count = 0")})
	if err != nil {
		t.Fatal(err)
	}
	if err := config.SaveOptions(bundle, options); err != nil {
		t.Fatal(err)
	}
	ordered := false
	if err := (Maker{}).Refill(t.Context(), bundle, small, func() { ordered = true }); err != nil || !ordered {
		t.Errorf("%v, and the VM's end may go on: %t", err, ordered)
	}
}
