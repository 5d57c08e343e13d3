package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Long texts are cut, short ones are as they were, and the class of an error remains.
func TestWordErrors(t *testing.T) {
	long := strings.Repeat("ä", maxText)
	for name, c := range map[string]struct {
		err  error
		is   func(error) bool
		text string
	}{
		"none":              {nil, func(err error) bool { return err == nil }, ""},
		"short":             {errgrpc.ToGRPC(fmt.Errorf("task c: %w", errdefs.ErrNotFound)), errdefs.IsNotFound, "task c"},
		"long":              {errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "%s", long), errdefs.IsInvalidArgument, "ä …"},
		"long, of no class": {errors.New(long), errdefs.IsUnknown, "ä …"},
	} {
		_, err := wordErrors(context.Background(), nil, nil, func(context.Context, func(any) error) (any, error) { return nil, c.err })
		if native := errgrpc.ToNative(err); !c.is(native) {
			t.Errorf("%s: %T %.100v", name, native, native)
		}
		if err != nil && (len(err.Error()) > maxText+200 || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %d bytes, %.100v", name, len(err.Error()), err)
		}
	}
}
