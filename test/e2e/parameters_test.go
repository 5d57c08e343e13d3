package e2e

import (
	"os"
	"testing"
)

// A guest has the host's settings about links and files of others, and its own ones, among them how much
// it reads ahead of its disk.
func TestKernelParameters(t *testing.T) {
	nothingLeft(t)
	files := []string{"fs/protected_hardlinks", "fs/protected_symlinks", "fs/protected_fifos", "fs/protected_regular"}
	want, command := "", []string{"cat"}
	for _, file := range files {
		value, err := os.ReadFile("/proc/sys/" + file)
		if err != nil {
			t.Fatal(err)
		}
		want, command = want+string(value), append(command, "/proc/sys/"+file)
	}
	want += "2\n0\n2048\n"
	command = append(command, "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/vm/compaction_proactiveness", "/sys/block/vda/queue/read_ahead_kb")
	if out, stderr, code := host.Run("parameters", nil, command...); code != 0 || out != want {
		t.Errorf("code %d: %q %s, want %q", code, out, stderr, want)
	}
}
