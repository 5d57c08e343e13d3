package podapi_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

const (
	ready    = "SANDBOX_READY"
	notReady = "SANDBOX_NOTREADY"
)

// A sandbox from its creation to its end, as containerd sees it.
func TestLife(t *testing.T) {
	bubble(t, func(w *world) {
		w.create()
		if status := w.status(true); status.State != notReady || status.Pid != 0 || status.CreatedAt != nil || status.ExitedAt != nil {
			t.Errorf("created: %v", status)
		}
		started, err := w.start(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		stand := w.Placeholders()[0]
		if started.Pid != uint32(stand.Pid()) || started.CreatedAt == nil {
			t.Errorf("StartSandbox = %v", started)
		}
		status := w.status(true)
		if status.State != ready || status.Pid != started.Pid || !status.CreatedAt.AsTime().Equal(started.CreatedAt.AsTime()) || status.ExitedAt != nil {
			t.Errorf("running: %v", status)
		}
		if want := fmt.Sprintf(`{"pid":%d,"vmm":%d}`, stand.Pid(), os.Getpid()); status.Info["info"] != want {
			t.Errorf("info %s, want %s", status.Info["info"], want)
		}
		if status.Info["pid"] != strconv.Itoa(stand.Pid()) || status.Info["state"] != ready {
			t.Errorf("info %v", status.Info)
		}
		if status := w.status(false); len(status.Info) != 0 {
			t.Errorf("nobody asked for %v", status.Info)
		}
		w.runContainer("c")
		if err := w.stop(context.Background()); err != nil {
			t.Errorf("StopSandbox = %v", err)
		}
		w.expectEnded(0)
		if status := w.status(true); strings.Contains(status.Info["info"], "vmm") || status.Info["state"] != notReady || status.CreatedAt == nil {
			t.Errorf("stopped: %v", status)
		}
		w.expectDeletable("c")
		if n := w.published("/tasks/exit"); n != 1 {
			t.Errorf("%d exits were told", n)
		}
		w.expectShutdown(podID)
	})
}

// expectShutdown ends the shim, which must first answer.
func (w *world) expectShutdown(id string) {
	w.T.Helper()
	if _, err := w.Sandboxes.ShutdownSandbox(context.Background(), &sandboxapi.ShutdownSandboxRequest{SandboxID: id}); err != nil {
		w.T.Errorf("ShutdownSandbox = %v", err)
	}
	synctest.Wait()
	select {
	case <-w.Down:
		w.T.Error("the shim ends before it has answered")
	default:
	}
	<-w.Down
}

// ShutdownSandbox ends what runs, and a shim without a sandbox.
func TestShutdown(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		w.expectShutdown(podID)
		w.expectEnded(0)
	})
	bubble(t, func(w *world) { w.expectShutdown("never created") })
	bubble(t, func(w *world) {
		w.create()
		w.expectShutdown(podID)
		w.expectEnded(0)
	})
}

// A client that does not wait for the end of its sandbox learns of that; the shim ends.
func TestShutdownWhoseClientLeaves(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		w.runContainer("c")
		w.Agent().On("Kill", fake.Hang)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := w.Sandboxes.ShutdownSandbox(ctx, &sandboxapi.ShutdownSandboxRequest{SandboxID: podID})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ShutdownSandbox = %v", err)
		}
		<-w.Down
		w.expectEnded(0)
		w.expectDeletable("c")
	})
}

// What the pod's containers share is made in the guest.
func TestSharedByContainers(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		request := fake.Requests[*api.CreatePodRequest](w.Agent())[0]
		if request.SharedMemory != pod.SharedMemory || request.Namespaces.GetHostname() != "name" {
			t.Errorf("CreatePod %v", request)
		}
		files := map[string]string{}
		for _, file := range request.Files {
			files[file.Name] = string(file.Content)
		}
		if files["hostname"] != "name\n" || !strings.Contains(files["hosts"], "localhost") || len(files) != 3 {
			t.Errorf("files %q", files)
		}
		holder := w.Pod.Holder()
		if holder.Pid != uint32(w.Placeholders()[0].Pid()) || holder.Guest == 0 {
			t.Errorf("the holder of its namespaces is %v", holder)
		}
	})
}

// A sandbox is started once: not again, and not twice at the same time.
func TestStartTwice(t *testing.T) {
	bubble(t, func(w *world) {
		told := make(chan struct{})
		w.Driver.Boot = fake.BootsWhen(told)
		w.create()
		first := make(chan error)
		go func() { _, err := w.start(context.Background()); first <- err }()
		synctest.Wait()
		if _, err := w.start(context.Background()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("StartSandbox at the same time = %v", err)
		}
		if status := w.status(false); status.State != notReady {
			t.Errorf("while it starts: %v", status)
		}
		close(told)
		if err := <-first; err != nil {
			t.Errorf("StartSandbox = %v", err)
		}
		if _, err := w.start(context.Background()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("StartSandbox again = %v", err)
		}
		if status := w.status(false); status.State != ready {
			t.Errorf("refusing has changed it: %v", status)
		}
	})
}

// A sandbox that has ended is not started, may be stopped again, and is not made anew.
func TestEnded(t *testing.T) {
	for name, run := range map[string]func(*world){"never started": (*world).create, "started": (*world).run} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				run(w)
				for range 2 {
					if err := w.stop(context.Background()); err != nil {
						t.Errorf("StopSandbox = %v", err)
					}
					w.expectEnded(0)
				}
				if _, err := w.start(context.Background()); !errdefs.IsFailedPrecondition(err) {
					t.Errorf("StartSandbox = %v", err)
				}
				if err := w.join("c"); !errdefs.IsFailedPrecondition(err) {
					t.Errorf("creating a container = %v", err)
				}
				if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request("another", plain())); !errdefs.IsAlreadyExists(err) {
					t.Errorf("CreateSandbox = %v", err)
				}
				_, err := w.Sandboxes.SandboxMetrics(context.Background(), &sandboxapi.SandboxMetricsRequest{SandboxID: podID})
				if !errdefs.IsUnavailable(err) {
					t.Errorf("SandboxMetrics = %v", err)
				}
			})
		})
	}
}

// Who waits may leave before the end.
func TestWaitWhoseClientLeaves(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if exit, err := w.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitSandbox = %v, %v", exit, err)
		}
		if status := w.status(false); status.State != ready {
			t.Errorf("its client has left: %v", status)
		}
	})
}

// What is asked of a sandbox beside its life.
func TestAsked(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		ctx := context.Background()
		platform, err := w.Sandboxes.Platform(ctx, &sandboxapi.PlatformRequest{SandboxID: podID})
		if err != nil || platform.Platform.OS != "linux" || platform.Platform.Architecture != runtime.GOARCH {
			t.Errorf("Platform = %v, %v", platform, err)
		}
		if _, err := w.Sandboxes.PingSandbox(ctx, &sandboxapi.PingRequest{SandboxID: podID}); err != nil {
			t.Errorf("PingSandbox = %v", err)
		}
		if _, err := w.Sandboxes.UpdateSandbox(ctx, &sandboxapi.UpdateSandboxRequest{SandboxID: podID}); !errdefs.IsNotImplemented(err) {
			t.Errorf("UpdateSandbox = %v", err)
		}
	})
}

// Pods that have ended leave no goroutine.
func TestNoGoroutineIsLeft(t *testing.T) {
	live := func() {
		w := open(t)
		w.run()
		w.runContainer("c")
		if err := w.stop(context.Background()); err != nil {
			t.Error(err)
		}
		w.expectDeletable("c")
	}
	live() // what the first one makes for all
	itself.NothingLeft(t)
	for range 5 {
		live()
	}
}
