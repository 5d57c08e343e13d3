package task

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

// What a killed shim leaves says how its task ended, or with which pid it ran.
func TestRecord(t *testing.T) {
	c := &container{id: "c", bundle: t.TempDir(), processes: map[string]*process{
		"": newProcess("", stdio.Config{}), "exec": newProcess("exec", stdio.Config{}),
	}}
	want := func(pid, status uint32, at time.Time) {
		t.Helper()
		found, err := ReadRecord(c.bundle)
		if err != nil || found.Pid != pid || found.Status != status || found.ExitedAt.IsZero() || !at.IsZero() && !found.ExitedAt.Equal(at) {
			t.Errorf("%+v, %v", found, err)
		}
	}
	want(0, sandbox.ExitKilled, time.Time{})
	c.pid.Store(77)
	c.note(exit{})
	want(77, sandbox.ExitKilled, time.Time{})
	c.setExit("exec", exit{3, time.Unix(1, 0)})
	want(77, sandbox.ExitKilled, time.Time{})
	c.setExit("", exit{42, time.Unix(2, 0)})
	want(77, 42, time.Unix(2, 0))
	if err := os.WriteFile(filepath.Join(c.bundle, recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := ReadRecord(c.bundle); err == nil || found.Status != sandbox.ExitKilled {
		t.Errorf("a damaged one: %+v, %v", found, err)
	}
}
