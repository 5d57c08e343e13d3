package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRecordKill(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Record)
		killed bool
	}{
		"its own VMM":         {func(*Record) {}, true},
		"a recycled id":       {func(r *Record) { r.Start = "1" }, false},
		"an older process id": {func(r *Record) { r.Pid, r.Start = 4194304, "1" }, false},
		"none yet":            {func(r *Record) { r.Pid = 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			victim := exec.Command("sleep", "60")
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = victim.Wait(); close(ended) }()
			defer func() { _ = victim.Process.Kill(); <-ended }()
			start, err := startTime(victim.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			record := Record{Pid: victim.Process.Pid, Start: start}
			c.change(&record)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := record.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
				if !c.killed {
					t.Error("another process was killed")
				}
			case <-time.After(300 * time.Millisecond):
				if c.killed {
					t.Error("the VMM was not killed")
				}
			}
		})
	}
}

func TestRecordFile(t *testing.T) {
	bundle := t.TempDir()
	if record, err := ReadRecord(bundle); record != nil || err != nil {
		t.Errorf("without a record: %+v, %v", record, err)
	}
	want := Record{Pid: 1, Start: "2", CgroupsPath: "/a", Network: "/b", Shim: 3, Driver: "qemu", CPUs: 4, Memory: 5}
	if err := want.write(bundle); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRecord(bundle); err != nil || *got != want {
		t.Errorf("read back: %+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(bundle, recordFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRecord(bundle); err == nil {
		t.Error("a damaged record was taken")
	}
	if err := removeRecord(bundle); err != nil {
		t.Error(err)
	}
}

// The end of a process is waited for as long as the caller says.
func TestAwaitExit(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := AwaitExit(ctx, fd); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AwaitExit = %v", err)
	}
	if start, err := startTime(1 << 23); err == nil {
		t.Errorf("a process that there is not started at %s", start)
	}
}

// leaderlessVariable has this program be one whose first thread has ended, and others have not.
const leaderlessVariable = "SANDBOX_TEST_LEADERLESS"

func init() {
	if os.Getenv(leaderlessVariable) != "" {
		go func() { time.Sleep(2 * time.Minute) }()
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread, on which init functions run
	}
}

// A process runs until its first thread has ended: one that was killed has others for a while, and
// no parent can wait for it.
func TestRuns(t *testing.T) {
	if !runs(os.Getpid()) {
		t.Error("this process does not run")
	}
	if runs(1 << 23) {
		t.Error("a process that there is not runs")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	leaderless := exec.Command(self)
	leaderless.Env = append(os.Environ(), leaderlessVariable+"=1")
	if err := leaderless.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = leaderless.Process.Kill()
		_ = leaderless.Wait()
	}()
	for deadline := time.Now().Add(time.Minute); runs(leaderless.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process whose first thread has ended runs")
		}
	}
	if _, err := startTime(leaderless.Process.Pid); err != nil {
		t.Errorf("it has ended altogether: %v", err)
	}
}
