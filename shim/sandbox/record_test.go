package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestKillRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(string) string
		killed bool
	}{
		"its own VMM":         {func(r string) string { return r }, true},
		"a recycled id":       {func(string) string { return "" }, false}, // filled in below
		"an older process id": {func(string) string { return "4194304 1\n" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			victim := exec.Command("sleep", "60")
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = victim.Wait(); close(ended) }()
			defer func() { _ = victim.Process.Kill(); <-ended }()
			if err := writeRecord(bundle, victim.Process.Pid); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(bundle, recordFile)
			record, _ := os.ReadFile(file)
			changed := c.damage(string(record))
			if changed == "" {
				changed = fmt.Sprintf("%d 1\n", victim.Process.Pid)
			}
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := KillRecorded(ctx, bundle); err != nil {
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

func TestKillRecordedWithout(t *testing.T) {
	if pid, err := KillRecorded(t.Context(), t.TempDir()); pid != 0 || err != nil {
		t.Errorf("without a record: %d, %v", pid, err)
	}
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, recordFile), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KillRecorded(t.Context(), bundle); err == nil {
		t.Error("a damaged record was taken")
	}
}
