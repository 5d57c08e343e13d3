package agent

import (
	"context"
	"errors"
	"slices"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/msb-runtime/containerd-shim-msb/guest/transfer"
)

// tasks is a task service that says what it was asked for.
type tasks struct {
	taskapi.TTRPCTaskService
	create error
	asked  []string
}

func (t *tasks) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	t.asked = append(t.asked, "create")
	return &taskapi.CreateTaskResponse{}, t.create
}

func (t *tasks) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	t.asked = append(t.asked, "delete "+r.ID)
	return &taskapi.DeleteResponse{}, nil
}

// A container whose files are not let go of is not there: an id that is no name has no place for files.
func TestCreateReleasesFiles(t *testing.T) {
	refused := errors.New("refused")
	for _, row := range []struct {
		id     string
		create error
		is     func(error) bool
		asked  []string
	}{
		{"c", nil, func(err error) bool { return err == nil }, []string{"create"}},
		{"c", refused, func(err error) bool { return errors.Is(err, refused) }, []string{"create"}},
		{"../c", nil, func(err error) bool { return errdefs.IsInvalidArgument(errgrpc.ToNative(err)) }, []string{"create", "delete ../c"}},
	} {
		fake := &tasks{create: row.create}
		_, err := keeper{fake, transfer.New()}.Create(t.Context(), &taskapi.CreateTaskRequest{ID: row.id})
		if !row.is(err) || !slices.Equal(fake.asked, row.asked) {
			t.Errorf("Create of %s = %v, and of the task service was asked %q", row.id, err, fake.asked)
		}
	}
}
