package task_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// A kill that is answered just in time, then a deletion that is never answered.
func TestKillAndDeleteLate(t *testing.T) {
	for name, del := range map[string]fake.Behaviour{"hang": fake.Hang, "late": fake.LateAnswer(24 * time.Second)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				c.Run("c", "sleep")
				c.Agent().On("Kill", fake.Late(24*time.Second))
				c.Agent().On("Task.Delete", del)
				c.expectEnd(name)
			})
		})
	}
}

// A deletion of a container waits behind one of its execs.
func TestDeleteBehindExec(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.run("c", "e", "sleep")
		c.must(c.kill("c", "e"))
		c.expectExit("c", "e", killed)
		c.must(c.kill("c", ""))
		c.expectExit("c", "", killed)
		c.Agent().On("Task.Delete", fake.LateAnswer(24*time.Second))
		left := beside(func() error { _, err := c.delete("c", "e"); return err })
		time.Sleep(time.Second)
		began := time.Now()
		c.expectDelete("c", "", killed)
		took := time.Since(began)
		if took > endWithin {
			t.Errorf("Delete alone took %v", took)
		}
		<-left
	})
}

// A guest that is late with all of it: with the kill, with the deletion of an exec before the
// container's, and with the end of the others of its pod.
func TestOwnerAndAllLate(t *testing.T) {
	for _, exec := range []bool{true, false} {
		bubble(t, func(c client) {
			c.pod()
			c.joinPod("c", "sleep")
			c.must(c.start("c", ""))
			c.run("p", "e", "sleep")
			c.must(c.kill("p", "e"))
			c.expectExit("p", "e", killed)
			began := time.Now()
			c.Agent().On("Kill", fake.Late(24*time.Second))
			c.must(c.kill("p", ""))
			c.expectExit("p", "", killed)
			c.Agent().On("Kill", fake.Pretend)
			c.Agent().On("Task.Delete", fake.LateAnswer(7*time.Second))
			if exec {
				c.Agent().On("Task.Delete", fake.LateAnswer(24*time.Second))
				left := beside(func() error { _, err := c.delete("p", "e"); return err })
				defer func() { <-left }()
				time.Sleep(time.Millisecond)
			}
			c.expectDelete("p", "", killed)
			if took := time.Since(began); took > endWithin {
				t.Errorf("after the deletion of an exec, %v: kill and delete took %v", exec, took)
			}
			c.expectDelete("c", "", killed)
			c.isDown()
		})
	}
}

// A container of a pod whose creation is given up is held by its guest for minutes.
func TestCreationInPodGivenUp(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		for _, call := range []string{"CreateBundle", "Task.Create"} {
			c.Agent().On(call, fake.LateAnswer(115*time.Second))
		}
		request := c.Request("c", member("sleep"))
		left := beside(func() error { _, err := c.Tasks.Create(c.ctx, request); return err })
		time.Sleep(time.Second)
		began := time.Now()
		_, err := c.delete("c", "")
		took := time.Since(began)
		if took > endWithin {
			t.Errorf("Delete took %v", took)
		}
		if !errdefs.IsNotFound(err) {
			t.Errorf("Delete = %v", err)
		}
		<-left
	})
}

// containerd asks for the metrics of one task after the other.
func TestStatsOfAPod(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		ids := []string{"a", "b", "d", "e", "f"}
		for _, id := range ids {
			c.joinPod(id, "sleep")
			c.must(c.start(id, ""))
		}
		c.Agent().On("Stats", fake.Hang)
		began := time.Now()
		for _, id := range ids {
			_, _ = c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: id})
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the metrics of others waited for %v", took)
		}
	})
}

// An exec that comes while its container is being deleted.
func TestExecDuringDelete(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		c.must(c.start("c", ""))
		request := c.execRequest("c", "e", "sleep")
		request.Stdout = "file://" + filepath.Join(c.T.TempDir(), "stdout")
		_, err := c.Tasks.Exec(c.ctx, request)
		c.must(err)
		c.must(c.start("c", "e"))
		c.must(c.kill("c", ""))
		c.expectExit("c", "", killed)
		c.Agent().On("RemoveBundle", fake.LateAnswer(20*time.Second))
		deleted := beside(func() error { _, err := c.delete("c", ""); return err })
		time.Sleep(time.Second)
		c.Agent().On("Exec", fake.Pretend)
		c.Agent().On("Task.Start", fake.Pretend)
		if err := c.exec("c", "late", "sleep"); !errdefs.IsNotFound(err) {
			t.Errorf("Exec = %v", err)
		}
		c.must(<-deleted)
		c.Flush()
		if topics := c.Published.Topics(); strings.Count(topics, "exec-added") != strings.Count(topics, "exit")-1 {
			t.Errorf("the events are %s", topics)
		}
		c.remove("p")
	})
}
