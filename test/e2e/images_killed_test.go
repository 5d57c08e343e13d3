package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"
)

// The shim or the VMM is killed while a container writes to a writable layer that is a file:
// nothing is left, the next task of the container has all that was synchronised, and what it
// leaves is clean.
func imageKilled(t *testing.T) {
	for _, victim := range []string{"shim", "VMM"} {
		t.Run(victim, func(t *testing.T) {
			nothingLeft(t)
			o := inErofs(t)
			before, events := host.Leftovers(), record(t)
			c := start(t, o, sleeper...)
			mounts := mountsOf(t, c.ctx, c.container)
			_, writer := c.startExec(cio.NullIO, nil, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/large/$((i % 100)); echo $i >>/written; done")
			c.must("until grep -qx 99 /written; do sleep 0.1; done; echo kept >/kept; sync")

			shim := shimOf(t, c.ID())
			if victim == "shim" {
				if err := unix.Kill(shim, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				events.until(t, c.ID(), "/tasks/delete")
				_, _ = c.Delete(c.ctx)
				waitFor(t, "the bundle to be gone", func() bool { _, err := os.Stat(host.Bundle(c.ID())); return err != nil })
			} else {
				if err := unix.Kill(c.vmm(), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				for _, exit := range []<-chan client.ExitStatus{c.exit, writer} {
					if code := await(t, exit); code != 137 {
						t.Errorf("exit code %d", code)
					}
				}
				if _, err := c.Delete(c.ctx); err != nil {
					t.Errorf("deleting the task: %v", err)
				}
			}
			if left := host.New(before); len(left) > 0 {
				t.Errorf("left behind: %s", strings.Join(left, ", "))
			}
			wantUnlocked(t, writableLayer(mounts))
			if !needsRecovery(t, mounts) {
				t.Error("the writable layer was unmounted before its VM was gone")
			}

			next := c.again()
			if got := next.must("cat /kept; sed -n 99p /written"); got != "kept\n99" {
				t.Errorf("the next task reads %q", got)
			}
			next.must("echo more >>/kept; rm -r /large")
			next.end()
			wantClean(t, mounts)
		})
	}
}

// needsRecovery tells whether the journal of a writable layer is to be replayed.
func needsRecovery(t *testing.T, mounts []mount.Mount) bool {
	t.Helper()
	header, err := exec.Command("dumpe2fs", "-h", writableLayer(mounts)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(header), "needs_recovery")
}

// wantUnlocked wants that nobody has a lock on a file.
func wantUnlocked(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("locking %s: %v", path, err)
	}
}
