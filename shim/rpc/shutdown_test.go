package rpc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

var errBroken = errors.New("broken")

// run creates and starts a container.
func (s *world) run(id string) {
	s.T.Helper()
	_, err := s.services.tasks.Create(context.Background(), s.Request(id, rig.Spec("sleep")))
	if err == nil {
		_, err = s.services.tasks.Start(context.Background(), &taskv3.StartRequest{ID: id})
	}
	if err != nil {
		s.T.Fatal(err)
	}
}

// exits counts the exits that were published in time.
func (s *world) exits() (n int) {
	taken, late := s.events.all()
	for _, event := range taken {
		if _, ok := event.(*eventsapi.TaskExit); ok {
			n++
		}
	}
	if late > 0 {
		s.T.Errorf("%d events came after the end", late)
	}
	return n
}

// With the shim its VM ends, and the events of that reach containerd.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.events.take = func() { time.Sleep(time.Second / 2) }
		s.run("c")
		began := time.Now()
		s.end()
		if !errors.Is(s.life.Err(), shutdown.ErrShutdown) {
			t.Errorf("the shim ends with %v", s.life.Err())
		}
		// The next shim's events come after its last.
		if waited := s.freed.Sub(began); waited < time.Second/2 {
			t.Errorf("its name is free after %v, before containerd has taken its events", waited)
		}
		if n := s.exits(); n != 1 {
			t.Errorf("%d exits were told", n)
		}
		<-s.events.closed
		<-s.Machine().Done()
		s.ExpectNoMounts()
	})
}

// The events have their time also after an end for which the guest took all of its own.
func TestShutdownOfAGuestThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.events.take = func() { time.Sleep(time.Second) }
		s.run("c")
		s.Agent().On("Kill", fake.Hang)
		began := time.Now()
		s.end()
		if took, budget := time.Since(began), s.Platform.Budgets.Prompt; took < budget || took > budget+5*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := s.exits(); n != 1 {
			t.Errorf("%d exits were told", n)
		}
	})
}

// A containerd that takes no events holds up the end for no more than their time.
func TestShutdownWithoutContainerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.events.take = func() { <-s.events.closed }
		s.run("c")
		began := time.Now()
		s.end()
		if took := time.Since(began); took < flushTimeout || took > flushTimeout+time.Second {
			t.Errorf("it took %v", took)
		}
		<-s.events.closed
		<-s.Machine().Done()
	})
}

// Shims that have ended leave no goroutine, nor do their clients.
func TestNoGoroutineIsLeft(t *testing.T) {
	live := func() {
		t.Run("shim", func(t *testing.T) {
			s := open(t)
			c := s.serve()
			s.run("c")
			go func() { _ = callByName(taskv3.NewTTRPCTaskClient(c.Client), "Wait") }()
			s.end()
		})
	}
	live() // what the first one makes for all
	itself.NothingLeft(t)
	for range 5 {
		live()
	}
}

// What fails at the end is told to who ends the shim.
func TestShutdownFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.events.err = errBroken
		s.Driver.Undying = true
		s.run("c")
		s.end()
		if err := s.life.Err(); !errors.Is(err, errBroken) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the shim ends with %v", err)
		}
		s.Machine().Die(nil)
		<-s.Machine().Done()
	})
}

// Whoever waits for an answer gets it, before the process goes with the shim: containerd may
// end the shim when one of its clients has deleted the task, and a second is about to. A shim of
// the same name does not wait for that.
func TestShutdownDuringACall(t *testing.T) {
	for name, test := range map[string]struct {
		takes, shim time.Duration
		answered    bool
	}{
		"short":          {time.Second, time.Second + answerDelay, true},
		"for ever":       {time.Hour, answerTimeout, false},
		"over by itself": {0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				c := serve(t, func(server *ttrpc.Server) {
					server.RegisterService("test", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
						"Call": method(s.services.calls, func(ctx context.Context, _ *emptypb.Empty) (*emptypb.Empty, error) {
							select {
							case <-time.After(test.takes):
							case <-ctx.Done():
							}
							return &emptypb.Empty{}, nil
						}),
					}})
				})
				answer := make(chan error, 1)
				go func() { answer <- c.call("test", "Call", &emptypb.Empty{}, &emptypb.Empty{}) }()
				synctest.Wait()
				time.Sleep(time.Nanosecond)
				began := time.Now()
				s.end()
				if took := time.Since(began).Round(time.Millisecond); took != test.shim {
					t.Errorf("the shim ends after %v, not %v", took, test.shim)
				}
				if !s.freed.Equal(began) {
					t.Errorf("its name is free after %v", s.freed.Sub(began))
				}
				c.Close()
				if err := <-answer; (err == nil) != test.answered {
					t.Errorf("the answer is %v", err)
				}
			})
		})
	}
}

// A sandbox that is starting is ended with the shim, too.
func TestShutdownDuringStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.Driver.Boot = fake.NeverBoots
		_, err := s.services.sandboxes.CreateSandbox(context.Background(), &sandboxapi.CreateSandboxRequest{SandboxID: "p", BundlePath: s.bundle})
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() {
			_, err := s.services.sandboxes.StartSandbox(context.Background(), &sandboxapi.StartSandboxRequest{SandboxID: "p"})
			started <- err
		}()
		synctest.Wait()
		began := time.Now()
		s.end()
		if err := <-started; err == nil {
			t.Error("StartSandbox succeeds")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A shim that nobody uses ends without more.
func TestShutdownOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		s.end()
		if !errors.Is(s.life.Err(), shutdown.ErrShutdown) {
			t.Errorf("the shim ends with %v", s.life.Err())
		}
		_, err := s.services.tasks.Create(context.Background(), s.Request("c", rig.Spec("sleep")))
		if err == nil {
			t.Error("it makes a VM after its end")
		}
	})
}

// pkg/shim finds the services as a plugin, which needs two others. With the shim, the file
// of its socket goes.
func TestPlugin(t *testing.T) {
	registry.Reset()
	defer registry.Reset()
	removed := false
	Register(Host{RemoveSocket: func() error { removed = true; return nil }}, time.Now())
	ours := registry.Graph(func(*plugin.Registration) bool { return false })
	if len(ours) != 1 || ours[0].Type != plugins.TTRPCPlugin {
		t.Fatalf("registered: %v", ours)
	}
	ctx, life := shutdown.WithShutdown(context.Background())
	defer func() {
		life.Shutdown()
		<-life.Done()
		if !removed {
			t.Error("the file of its socket is left")
		}
	}()
	set := plugin.NewPluginSet()
	add := func(kind plugin.Type, id string, instance any) {
		registration := plugin.Registration{Type: kind, ID: id, InitFn: func(*plugin.InitContext) (any, error) { return instance, nil }}
		if err := set.Add(registration.Init(plugin.NewContext(ctx, set, nil))); err != nil {
			t.Fatal(err)
		}
	}
	initialize := func() (any, error) { return ours[0].Init(plugin.NewContext(ctx, set, nil)).Instance() }
	if _, err := initialize(); err == nil {
		t.Error("it needs no publisher")
	}
	add(plugins.EventPlugin, "publisher", newTaker())
	if _, err := initialize(); err == nil {
		t.Error("it needs no shutdown service")
	}
	add(plugins.InternalPlugin, "shutdown", life)
	percent := debug.SetGCPercent(40) // as pkg/shim does
	instance, err := initialize()
	if set := debug.SetGCPercent(percent); set != gcPercent {
		t.Errorf("garbage is collected at %d %%, not %d", set, gcPercent)
	}
	if services, ok := instance.(*Services); !ok || services.tasks == nil || services.sandboxes == nil || err != nil {
		t.Errorf("the plugin is %v, %v", instance, err)
	}
	before := log.GetLevel()
	defer func() { _ = log.SetLevel(before.String()) }()
	for _, c := range []struct{ level, want string }{{"warn", "warning"}, {"", "warning"}, {"debug", "debug"}} {
		configuration := config.Default()
		configuration.Log.Level = c.level
		(Host{}).platform("", "")(configuration)
		if got := log.GetLevel().String(); got != c.want {
			t.Errorf("with log.level %q the level is %s, want %s", c.level, got, c.want)
		}
	}
	dir, _ := os.Getwd() // the bundle of a shim
	line, err := log.L.Logger.Formatter.Format(log.L.WithField("id", "c"))
	if want := " runtime=io.containerd.msb.v2 sandbox=" + filepath.Base(dir) + "\n"; err != nil || !strings.HasSuffix(string(line), want) {
		t.Errorf("the log has %q, %v, want %q", line, err, want)
	}
}
