package rig

import (
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

func TestMain(m *testing.M) { Main(m) }

// A container lives and goes, and nothing of it is left.
func TestLife(t *testing.T) {
	r := New(t)
	r.Run("c", "exit", "3")
	exit, err := r.Tasks.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"})
	if err != nil || exit.ExitStatus != 3 {
		t.Errorf("Wait = %v, %v", exit, err)
	}
	if _, err := r.Tasks.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"}); err != nil {
		t.Error(err)
	}
	r.Flush()
	if got := r.Published.Topics(); got != "create start exit delete" {
		t.Errorf("events: %s", got)
	}
	r.ExpectNoMounts()
}

// In a bubble the guest's time is over at once.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(t)
		r.Run("c", "sleep")
		r.Agent().On("Kill", fake.Hang)
		began := time.Now()
		if _, err := r.Tasks.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGKILL)}); err != nil {
			t.Errorf("Kill = %v", err)
		}
		if took := time.Since(began); took < r.Platform.Budgets.Prompt || took > r.Platform.Budgets.Prompt+5*time.Second {
			t.Errorf("it took %v", took)
		}
		if response, err := r.Tasks.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"}); err != nil || response.ExitStatus != 137 {
			t.Errorf("Delete = %v, %v", response, err)
		}
	})
}
