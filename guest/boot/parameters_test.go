package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The host's parameters and the guest's own are set; one that a kernel has not is left out.
func TestParameters(t *testing.T) {
	proc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cmdline", "quiet msb.sysctl.fs.protected_hardlinks=1 sysctl.fs.other=1 msb.sysctl.fs.missing=1 msb.sysctl.fs.protected_fifos=2 root=/dev/vda\n")
	files := map[string]string{
		"fs/protected_hardlinks": "1", "fs/protected_fifos": "2", "fs/other": "before",
		"kernel/unprivileged_bpf_disabled": "2", "vm/compaction_proactiveness": "0",
	}
	for name := range files {
		write("sys/"+name, "before")
	}
	var left []string
	note := func(line string) { left = append(left, line) }
	if err := setParameters(proc, note); err != nil || len(left) != 1 || !strings.HasSuffix(left[0], "fs/missing") {
		t.Fatalf("%v, left out: %q", err, left)
	}
	for name, want := range files {
		// A file of proc takes a write as a whole, a file here keeps the rest.
		if is, err := os.ReadFile(filepath.Join(proc, "sys", name)); err != nil || !strings.HasPrefix(string(is), want) {
			t.Errorf("%s is %q, %v, want %q", name, is, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(proc, "sys/fs/missing")); !os.IsNotExist(err) {
		t.Errorf("a parameter that the kernel has not: %v", err)
	}
	// Whoever cannot set one says which.
	if err := os.Remove(filepath.Join(proc, "sys/fs/protected_fifos")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(proc, "sys/fs/protected_fifos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := setParameters(proc, note); err == nil || !strings.Contains(err.Error(), "fs/protected_fifos") {
		t.Errorf("what cannot be written: %v", err)
	}
}
