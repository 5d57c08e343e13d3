package task_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// endWithin is how long a client waits for the end of a container, of whatever guest: a
// kill and a deletion.
const endWithin = 35 * time.Second

// endOf kills and deletes a container, and returns how long that took.
func (c client) endOf(id string) time.Duration {
	c.T.Helper()
	began := time.Now()
	_ = c.kill(id, "") // the guest may make an error of it, which changes nothing
	if _, err := c.wait(id, ""); err != nil {
		c.T.Errorf("Wait = %v", err)
	}
	if response, err := c.delete(id, ""); err != nil || response.ExitStatus != killed {
		c.T.Errorf("Delete = %v, %v", response, err)
	}
	return time.Since(began)
}

// createWithOutput creates a container that has standard streams, in files: FIFOs are
// nothing for a bubble.
func (c client) createWithOutput(id string, args ...string) {
	c.T.Helper()
	request := c.Request(id, rig.Spec(args...))
	request.Stdout = "file://" + filepath.Join(c.T.TempDir(), "stdout")
	_, err := c.Tasks.Create(c.ctx, request)
	c.must(err)
}

// expectEnd is endOf in time, with nothing left on the host.
func (c client) expectEnd(what string) {
	c.T.Helper()
	took := c.endOf("c")
	c.T.Logf("%s: kill and delete took %v", what, took)
	if took > endWithin {
		c.T.Errorf("%s: kill and delete took %v", what, took)
	}
	c.ended()
	c.ExpectNoMounts()
	c.isDown()
}

// liveCalls are the calls to the guest in the life of a container, and what makes them.
var liveCalls = map[string]func(client) error{
	"Task.Start": func(c client) error { return c.start("c", "") },
	"Task.Exec":  func(c client) error { return c.exec("c", "new", "sleep") },
	"Task.Pause": func(c client) error {
		_, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: "c"})
		return err
	},
	"Task.Resume": func(c client) error {
		_, err := c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: "c"})
		return err
	},
	"Task.ResizePty": func(c client) error {
		_, err := c.Tasks.ResizePty(c.ctx, &taskapi.ResizePtyRequest{ID: "c"})
		return err
	},
	"Task.CloseIO": func(c client) error {
		_, err := c.Tasks.CloseIO(c.ctx, &taskapi.CloseIORequest{ID: "c"})
		return err
	},
	"Task.Update": func(c client) error {
		_, err := c.Tasks.Update(c.ctx, &taskapi.UpdateTaskRequest{ID: "c", Resources: resources(c.T, 16<<20)})
		return err
	},
	"Task.Kill":          func(c client) error { return c.signal("c", "", 1) },
	"Task.Delete":        nil, // the end itself makes these
	"Guest.RemoveBundle": nil,
	"Guest.CloseStdio":   nil,
}

// creationCalls are those that are made before there is a container.
var creationCalls = []string{
	"Stream.Control", "Guest.Start", "Guest.CreateBundle", "Task.Create", "Guest.CreatePod",
}

// A call that is never answered has an end, which is its VM's, and the container's end
// comes in time.
func TestNeverAnswered(t *testing.T) {
	for _, behaviour := range []struct {
		name string
		is   fake.Behaviour
	}{{"hangs", fake.Hang}, {"mute", fake.Mute}} {
		for call, make := range liveCalls {
			t.Run(call+" "+behaviour.name, func(t *testing.T) {
				bubble(t, func(c client) {
					c.createWithOutput("c", "ignores-term")
					if call != "Task.Start" {
						c.must(c.start("c", ""))
					}
					c.Agent().On(call, behaviour.is)
					if make != nil {
						left := beside(func() error { return make(c) })
						time.Sleep(time.Second)
						c.expectEnd(call)
						if err := <-left; err == nil {
							t.Errorf("%s was answered", call)
						}
						return
					}
					c.expectEnd(call)
				})
			})
		}
	}
}

// A client that waits for a call learns that it was not answered, when its budget is over.
func TestBudgets(t *testing.T) {
	for call, make := range liveCalls {
		if make == nil {
			continue
		}
		t.Run(call, func(t *testing.T) {
			bubble(t, func(c client) {
				c.must(c.create("c", rig.Spec("sleep")))
				if call != "Task.Start" {
					c.must(c.start("c", ""))
				}
				c.Agent().On(call, fake.Hang)
				budget := c.Platform.Budgets.Prompt
				if call == "Task.Start" || call == "Task.Exec" {
					budget = c.Platform.Budgets.Lengthy
				}
				began := time.Now()
				err := make(c)
				if took := time.Since(began); took < budget || took > budget+2*time.Second {
					t.Errorf("it took %v", took)
				}
				if !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) {
					t.Errorf("%s = %v", call, err)
				}
				c.ended()
				c.expectExit("c", "", killed)
				c.expectDelete("c", "", killed)
			})
		})
	}
}

// A creation that the guest does not carry out fails in time and leaves nothing.
func TestCreationNeverAnswered(t *testing.T) {
	for _, call := range creationCalls {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(c client) {
				c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On(call, fake.Hang) }
				spec, id := rig.Spec("sleep"), "c"
				if call == "Guest.CreatePod" {
					spec, id = rig.InPod(spec, "p", true), "p"
				}
				began := time.Now()
				if err := c.create(id, spec); err == nil {
					t.Error("it was created")
				}
				took := time.Since(began)
				t.Logf("%s: %v", call, took)
				if limit := c.Platform.Budgets.Lengthy + 5*time.Second; took > limit {
					t.Errorf("it took %v", took)
				}
				c.ended()
				c.ExpectNoMounts()
				c.expectTopics("")
				c.isDown()
			})
		})
	}
}

// behaviours are what a guest may do with any call, and none of it may cost the host more
// than the VM.
func behaviours() map[string]fake.Behaviour {
	return map[string]fake.Behaviour{
		"fails":             fake.Fail(errors.New("no")),
		"finds nothing":     fake.Fail(errdefs.ErrNotFound),
		"fails at length":   fake.HugeError(1 << 20),
		"of another type":   fake.WrongType,
		"garbage":           fake.Garbage,
		"much":              fake.Huge(200 << 10),
		"too much":          fake.Huge(1 << 20),
		"the machine dies":  fake.Die,
		"it dies with that": fake.DieDone,
		"pretends":          fake.Pretend,
		"late":              fake.Late(20 * time.Second),
	}
}

// Whatever a guest answers to any call in a container's life, the container ends in time.
func TestHostileAnswers(t *testing.T) {
	for name, behaviour := range behaviours() {
		t.Run(name, func(t *testing.T) {
			for call, make := range liveCalls {
				bubble(t, func(c client) {
					c.createWithOutput("c", "ignores-term")
					if call != "Task.Start" {
						c.must(c.start("c", ""))
					}
					c.Agent().On(call, behaviour)
					if make != nil {
						if err := make(c); err != nil && len(err.Error()) > 5<<10 {
							t.Errorf("%s: an error of %d bytes", call, len(err.Error()))
						}
					}
					if took := c.endOf("c"); took > endWithin {
						t.Errorf("%s: kill and delete took %v", call, took)
					}
					c.isDown()
				})
			}
		})
	}
}

// Whatever a guest answers in a creation, either there is a container or nothing.
func TestHostileCreation(t *testing.T) {
	for name, behaviour := range behaviours() {
		t.Run(name, func(t *testing.T) {
			for _, call := range creationCalls {
				bubble(t, func(c client) {
					c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On(call, behaviour) }
					spec := rig.Spec("sleep")
					if call == "Guest.CreatePod" {
						spec = rig.InPod(spec, "p", true)
					}
					if err := c.create("c", spec); err != nil {
						if len(err.Error()) > 9<<10 {
							t.Errorf("%s: an error of %d bytes", call, len(err.Error()))
						}
					} else if _, err := c.delete("c", ""); err != nil {
						t.Errorf("%s: Delete = %v", call, err)
					}
					c.ended()
					c.ExpectNoMounts()
					c.isDown()
				})
			}
		})
	}
}
