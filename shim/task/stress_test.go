package task_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// How long TestStress runs, and the seed of its first round, which a failure tells.
const (
	stressFor  = "MSB_STRESS"      // as "10m"
	stressSeed = "MSB_STRESS_SEED" // a number
)

// TestStress has several clients call a pod's shim at random, with a guest that does
// anything at all. A round takes milliseconds, in a bubble, and what is drawn in it follows
// from its seed.
func TestStress(t *testing.T) {
	logrus.SetLevel(logrus.FatalLevel)
	defer logrus.SetLevel(logrus.InfoLevel)
	lasts, seed := 2*time.Second, uint64(time.Now().UnixNano())
	var err error
	if value := os.Getenv(stressFor); value != "" {
		if lasts, err = time.ParseDuration(value); err != nil {
			t.Fatal(err)
		}
	}
	if value := os.Getenv(stressSeed); value != "" {
		if seed, err = strconv.ParseUint(value, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 0
	defer func() { t.Logf("%d rounds; the last was %s=%d", rounds, stressSeed, seed-1) }()
	for began := time.Now(); time.Since(began) < lasts && !t.Failed(); rounds++ {
		this := seed
		seed++
		synctest.Test(t, func(t *testing.T) { (&round{client: open(t)}).play(this) })
	}
}

// A round is one pod and its clients.
type round struct{ client }

const (
	stressClients = 4
	stressCalls   = 15
	// stressLimit is longer than any call may take, of whatever guest: it may wait for a
	// creation that is undone, and for the end of a pod.
	stressLimit = 6 * time.Minute
)

func (r *round) play(seed uint64) {
	draw := rand.New(rand.NewPCG(seed, 0))
	r.Driver.Prepare = func(m *fake.Machine) { r.bend(draw, m.Agent) }
	if r.create("p", rig.InPod(rig.Spec("pause"), "p", true)) == nil {
		_ = r.start("p", "")
	}
	var clients sync.WaitGroup
	for i := range stressClients {
		own := rand.New(rand.NewPCG(seed, uint64(i)+1))
		clients.Go(func() {
			for range stressCalls {
				r.call(own)
			}
		})
	}
	clients.Wait()
	r.cleanUp()
	r.checkEvents()
}

// bend changes what some of the guest's calls do.
func (r *round) bend(draw *rand.Rand, agent *fake.Agent) {
	calls := []string{
		"Create", "Start", "Exec", "Kill", "Task.Delete", "Pause", "Resume", "Stats",
		"CreateBundle", "RemoveBundle", "CloseStdio",
	}
	for range draw.IntN(4) {
		agent.On(calls[draw.IntN(len(calls))], fake.Times(1+draw.IntN(3), r.behaviour(draw)))
	}
}

func (r *round) behaviour(draw *rand.Rand) fake.Behaviour {
	delay := time.Duration(draw.Int64N(int64(40 * time.Second)))
	all := []fake.Behaviour{
		fake.Late(delay), fake.LateAnswer(delay), fake.Late(delay / 100), fake.LateAnswer(delay / 100),
		fake.Fail(errors.New("no")), fake.Fail(errdefs.ErrNotFound), fake.Hang, fake.Mute, fake.Pretend, fake.Die, fake.DieDone,
		fake.WrongType, fake.Garbage,
	}
	return all[draw.IntN(len(all))]
}

// call makes one call, drawn at random, of a client that may leave in the middle.
func (r *round) call(draw *rand.Rand) {
	time.Sleep(time.Duration(draw.Int64N(int64(2 * time.Second))))
	ctx, leave := context.WithCancel(r.ctx)
	defer leave()
	if draw.IntN(4) == 0 {
		stop := time.AfterFunc(time.Duration(draw.Int64N(int64(5*time.Second))), leave)
		defer stop.Stop()
	}
	c := r.with(ctx)
	id := []string{"a", "b", "c", "a", "b", "p"}[draw.IntN(6)]
	exec := []string{"", "", "x", "y"}[draw.IntN(4)]
	program := [][]string{{"sleep"}, {"exit", "3"}, {"sleep", "1s"}, {"ignores-term"}, {"missing"}}[draw.IntN(5)]
	began := time.Now()
	name := r.make(c, draw, id, exec, program)
	if took := time.Since(began); took > stressLimit {
		r.T.Errorf("%s of %s %s took %v", name, id, exec, took)
	}
}

// make makes the call, and returns its name.
func (r *round) make(c client, draw *rand.Rand, id, exec string, program []string) string {
	switch n := draw.IntN(40); {
	case n < 8:
		if id != "p" {
			_ = c.create(id, member(program...))
		}
		return "Create"
	case n < 12:
		if exec != "" {
			_ = c.exec(id, exec, program...)
		}
		return "Exec"
	case n < 20:
		_ = c.start(id, exec)
		return "Start"
	case n < 25:
		if id != "p" || draw.IntN(4) == 0 {
			_ = c.signal(id, exec, []unix.Signal{unix.SIGKILL, unix.SIGTERM}[draw.IntN(2)])
		}
		return "Kill"
	case n < 31:
		if id != "p" || exec != "" || draw.IntN(4) == 0 {
			_, _ = c.delete(id, exec)
		}
		return "Delete"
	}
	return r.makeOther(c, draw, id, exec)
}

func (r *round) makeOther(c client, draw *rand.Rand, id, exec string) string {
	var err error
	name := "nothing"
	switch draw.IntN(10) {
	case 0:
		name = "Pause"
		_, err = c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: id})
	case 1, 2:
		name = "Resume"
		_, err = c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: id})
	case 3:
		name = "Stats"
		_, err = c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: id})
	case 4:
		name = "Pids"
		_, err = c.Tasks.Pids(c.ctx, &taskapi.PidsRequest{ID: id})
	case 5:
		name = "State"
		_, err = c.state(id, exec)
	case 6:
		name = "Shutdown"
		if id != "p" {
			c.shutdown(id)
		}
	case 7:
		name = "Wait"
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		defer cancel()
		_, err = c.with(ctx).wait(id, exec)
	case 8:
		if len(c.Driver.Machines()) > 0 {
			err = c.Agent().Exit(id, exec, uint32(draw.IntN(200)))
		}
	case 9:
		if stands := c.Placeholders(); len(stands) > 1 && draw.IntN(4) == 0 {
			stands[draw.IntN(len(stands))].Kill()
		}
	}
	_ = err // any is right, of some guest
	return name
}

// cleanUp ends everything as containerd does. The shim ends then, and nothing is left.
func (r *round) cleanUp() {
	for _, id := range []string{"a", "b", "c", "p"} {
		r.endTask(id)
	}
	if r.Pod.Busy() {
		r.T.Errorf("containers are left: %v", r.Pod.Members())
		return
	}
	r.shutdown("p")
	r.isDown()
	for _, machine := range r.Driver.Machines() {
		<-machine.Done()
	}
	r.ExpectNoMounts()
}

// endTask kills and deletes a task.
func (r *round) endTask(id string) {
	_ = r.kill(id, "")
	ctx, cancel := context.WithTimeout(r.ctx, endWithin)
	defer cancel()
	if _, err := r.with(ctx).wait(id, ""); ctx.Err() != nil {
		r.T.Errorf("%s did not end after its SIGKILL: %v", id, err)
	}
	if _, err := r.delete(id, ""); err != nil && !errdefs.IsNotFound(err) {
		r.T.Errorf("Delete(%s) = %v", id, err)
	}
}
