package guest_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// maxStats is how many requests for metrics may be under way.
const maxStats = 16

// muteFor is how long a guest that did not answer is not asked again.
const muteFor = 5 * time.Second

// A guest that has no metrics in time keeps its VM, and holds nobody up for longer: not for
// each of its containers, either, which are asked for one after the other.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stats", fake.Hang)
		for range 2 * maxStats {
			began := time.Now()
			_, err := h.client.Stats(t.Context(), "c")
			if took := time.Since(began); took != budgets.Stats || !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no metrics within 1s") {
				t.Fatalf("after %v: %v", took, err)
			}
			for range 100 {
				if _, err := h.client.Stats(t.Context(), "another"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "just not answered") {
					t.Fatalf("another container's: %v", err)
				}
			}
			if took := time.Since(began); took != budgets.Stats {
				t.Errorf("others waited for %v", took)
			}
			time.Sleep(muteFor)
		}
		h.agent.On("Stats", fake.Honest)
		if _, err := h.client.Stats(t.Context(), "c"); errdefs.IsNotFound(err) && strings.Contains(err.Error(), "just not answered") {
			t.Errorf("it is not asked again: %v", err)
		}
		h.wantAlive()
	})
}

// A caller that leaves before gets its own error, which is not that the guest has none.
func TestStatsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stats", fake.Hang)
		if _, err := h.client.Stats(leave(t, time.Millisecond), "c"); !errors.Is(err, errLeft) || errdefs.IsNotFound(err) {
			t.Errorf("Stats = %v", err)
		}
		h.wantAlive()
	})
}

// A guest that does not read cannot collect requests: of those beyond the most that may be
// under way each is refused at once.
func TestStatsWithoutReader(t *testing.T) {
	p := connect(t)
	var requests sync.WaitGroup
	for range maxStats {
		requests.Go(func() {
			began := time.Now()
			if _, err := p.client.Stats(t.Context(), "c"); !errdefs.IsNotFound(err) || time.Since(began) < budgets.Stats {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
	time.Sleep(budgets.Stats / 2) // they are under way, and not over
	for range 100 {
		if _, err := p.client.Stats(t.Context(), "c"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "has not answered 16 earlier requests") {
			t.Fatal(err)
		}
	}
	requests.Wait()
	if err := p.Err(); err != nil {
		t.Errorf("the VM was ended: %v", err)
	}
}

// What the guest answers has containerd's type for metrics, or is none. Errors keep their
// class.
func TestStatsAnswers(t *testing.T) {
	h := boot(t)
	for name, behaviour := range map[string]fake.Behaviour{
		"a long type": fake.Answer(&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: strings.Repeat("\x1b", 40<<10)}}),
		"another":     fake.Answer(&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: "io.containerd.cgroups.v1.Metrics"}}),
		"none":        fake.Pretend,
	} {
		h.agent.On("Stats", behaviour)
		if metrics, err := h.client.Stats(t.Context(), "c"); metrics != nil || !errdefs.IsNotFound(err) || len(err.Error()) > 1<<10 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v, %v", name, metrics, err)
		}
	}
	h.agent.On("Stats", fake.Fail(errdefs.ErrPermissionDenied))
	if _, err := h.client.Stats(t.Context(), "c"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("an error: %v", err)
	}
	h.wantAlive()
}
