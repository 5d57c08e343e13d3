package task_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// A VM that was ended because a deletion took too long is gone as any other: killing what
// was in it is "not found", at which containerd's CRI plugin goes on.
func TestKillAfterALateDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.TempDir() // outlives the shim
		r := rig.New(t)
		for _, id := range []string{"pod", "c"} {
			spec := rig.InPod(rig.Spec("sleep"), "pod", id == "pod")
			if _, err := r.Tasks.Create(t.Context(), r.Request(id, spec)); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Tasks.Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		kill := func(id string) error {
			_, err := r.Tasks.Kill(t.Context(), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
			return err
		}
		if err := kill("c"); err != nil {
			t.Fatal(err)
		}
		r.Agent().On("Delete", fake.Fail(context.DeadlineExceeded))
		if _, err := r.Tasks.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"c", "pod"} {
			if _, err := r.Tasks.Delete(t.Context(), &taskapi.DeleteRequest{ID: id}); err != nil {
				t.Errorf("Delete of %s = %v", id, err)
			}
			if err := kill("pod"); !errdefs.IsNotFound(err) {
				t.Errorf("Kill of what has ended with its VM = %v", err)
			}
		}
	})
}

// Killing what is left of a container whose init has exited fails while the guest takes it
// away with its pod. That is "not found", too: containerd's CRI plugin tries anything else
// again, seconds later.
func TestKillAllOfWhatHasExited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.TempDir() // outlives the shim
		r := rig.New(t)
		r.Run("c", "exit", "0")
		if _, err := r.Tasks.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		r.Agent().On("Kill", fake.Fail(errors.New("runc did not terminate successfully")))
		_, err := r.Tasks.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGKILL), All: true})
		if !errdefs.IsNotFound(err) {
			t.Errorf("Kill = %v", err)
		}
	})
}
